"""Which tokens a batch holds: windows of a bin, dealt out so that a resumed run goes on with the very next token.

Lightning 2.6 drops a dataloader's state on resume where the optimiser's schedule asked for the length of the run
(Lightning issue 20550). Nothing here has such a state: a batch is a function of the run's seed, the epoch and the
number of the batch in it, which Lightning does restore (`TitansModule.on_train_start` hands it to the sampler).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from app.data import DomainData, ShardedBatches, run_seed
from app.tokens import IGNORE, TokenBatch, Tokens, loader

LANE = 4  # windows of a lane at least: the first is cut in two, and begins twice
STAGES = 3  # of a length warm-up, each twice as long as the one before: it starts at length / 8


@dataclass
class Step:
    """What one device reads in one step.

    Args:
        rows: windows, LongTensor [B].
        epoch: passes over the data behind this one.
        pieces: which piece of each window, from 0, LongTensor [B]; None for the first of all.
        fresh: see `TokenBatch`.
        lag: see `TokenBatch`.
        shift: tokens that this epoch's windows start later.
        cuts: shorter sequences that each row is cut into (length warm-up); 1 at full length.
    """

    rows: Tensor
    epoch: int = 0
    pieces: Tensor | None = None
    fresh: Tensor | None = None
    lag: int = 1
    shift: int = 0
    cuts: int = 1


class Windows(Dataset):
    """Windows of consecutive tokens, up to `pieces` x `length` each, read a piece at a time.

    Args:
        tokens: the bin.
        length: tokens T of a piece.
        pieces: pieces of a window, through which the state is carried.
        by_document: no window reaches into another document, so that each starts with a fresh state.
        training: keep full windows only, and score the ends of documents too.
    """

    def __init__(self, tokens: Tokens, length: int, pieces: int, by_document: bool, training: bool) -> None:
        self.tokens = tokens
        self.length = length
        self.pieces = pieces
        self.training = training
        span = length * pieces
        count = len(tokens.ids)
        edges = [*tokens.starts, count - 1] if by_document else [0, count - 1]
        self.starts = np.concatenate([np.arange(a, b, span) for a, b in zip(edges, edges[1:], strict=False)])
        ends = np.asarray(edges[1:])[np.searchsorted(edges[1:], self.starts, side="right")]
        # Predictions that each window asks for.
        self.sizes = np.minimum(ends - self.starts, span)
        # Tokens that an epoch may shift the windows by.
        self.slack = 0
        if training and not by_document and count > span:
            full = (count - 1) // span
            self.slack = min((count - 1) - full * span, span) if full < 2 else span
            whole = full if full < 2 else full - 1
            self.starts = self.starts[:whole]
            self.sizes = self.sizes[:whole]
        # Pieces of each window.
        self.counts = -(-self.sizes // length)
        # carried rows stop at the same place on every device, whatever documents each holds
        self.fixed = pieces > 1 or bool((self.sizes == span).all())

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Step | Tensor) -> TokenBatch:
        """The pieces of a training step, or whole windows [B] of one piece in evaluation."""
        step = index if isinstance(index, Step) else Step(index)
        rows = step.rows.numpy()
        done = np.zeros_like(rows) if step.pieces is None else step.pieces.numpy() * self.length
        # Predictions that each of these pieces asks for.
        left = np.clip(self.sizes[rows] - done, 0, self.length)
        width = self.length if self.fixed else max(int(left.max()), 1)
        starts = self.starts[rows] + step.shift + done
        places = starts[:, None] + np.arange(width + 1)
        ids = torch.from_numpy(self.tokens.read(np.minimum(places, len(self.tokens.ids) - 1)))
        inputs = ids[:, :-1]
        targets = ids[:, 1:]
        if left.min() < width:
            targets = targets.masked_fill(torch.arange(width) >= torch.from_numpy(left)[:, None], IGNORE)
        # A length warm-up reads the same tokens as more and shorter sequences.
        if step.cuts > 1 and width == self.length:
            inputs, targets = (t.reshape(len(rows) * step.cuts, -1) for t in (inputs, targets))
        return TokenBatch(
            inputs.contiguous(),
            targets.contiguous(),
            fresh=step.fresh,
            lag=step.lag,
            starts=torch.from_numpy(starts),
        )


class StreamBatches(ShardedBatches):
    """Training batches of windows, read in lanes; any number of devices sees the same.

    A lane is a list of windows whose pieces follow each other. Groups of lanes take turns: a row goes on from the state
    that the row at its place left a turn before, and steps in a row read different windows, as their gradients would
    otherwise be too much alike. The lanes of a group are staggered, at different pieces of their windows: each step
    begins some windows and goes on with others, so that M_0 is trained by every step.

    All lanes are equally long and are read once around. So every piece is read once an epoch, but those that do not
    fill a turn of all groups; and a lane in the middle of a window begins there with a fresh state, in the first turn
    of an epoch, in the first at full length after a length warm-up, and once where a lane's end meets its start.

    Args:
        windows: what is trained on.
        batch_size: windows per step of the whole run, over all devices.
        warmup: steps in which the sequence length grows to its own by doubling; 0 for none.
        stages: how often it doubles.
        groups: how many groups take turns where windows have several pieces; fewer where lanes would be too short.
        replicas: number of devices; by default, those of this run.
        rank: this device's place among them; by default, that of this process.
    """

    def __init__(
        self,
        windows: Windows,
        batch_size: int,
        warmup: int = 0,
        stages: int = STAGES,
        groups: int = 1,
        replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(windows, batch_size, True, replicas, rank)
        self.windows = windows
        self.warmup = warmup
        self.stages = stages
        # Rows of a step, over all devices.
        self.rows = min(batch_size, self.samples)
        self.longest = int(windows.counts.max())
        self.groups = max(min(groups, self.samples // (LANE * self.rows)), 1) if self.longest > 1 else 1
        # Pieces in a lane.
        self.turns = int(windows.counts.sum()) // (self.rows * self.groups)

    def __len__(self) -> int:
        return self.turns * self.groups

    def __iter__(self) -> Iterator[Step]:
        generator = torch.Generator().manual_seed(run_seed(self.epoch))
        order = torch.randperm(self.samples, generator=generator).numpy()
        shift = int(torch.randint(self.windows.slack + 1, (), generator=generator))
        first = self.start
        self.start = 0
        # windows are dealt out to the lanes like cards; then all pieces in a row are cut into lanes of equal length
        lanes = self.rows * self.groups
        whole = len(order) // lanes * lanes
        order = np.concatenate([order[:whole].reshape(-1, lanes).T.ravel(), order[whole:]])
        counts = self.windows.counts[order]
        ends = counts.cumsum()
        rows = self.own_rows(torch.arange(self.rows)).numpy()
        for number in range(first, len(self)):
            turn, group = divmod(number, self.groups)
            # Where each lane starts in the list of all pieces.
            start = (group * self.rows + rows) * self.turns
            # Lanes whose windows are equally long start at different pieces of them.
            ahead = (rows * self.longest // self.rows - start) % self.longest
            done = (turn + ahead) % self.turns
            window = ends.searchsorted(start + done, side="right")
            piece = start + done - (ends - counts)[window]
            cuts = self._cuts(number)
            fresh = None
            if self.longest > 1 and cuts == 1:
                nothing_carried = turn == 0 or self._cuts(number - self.groups) > 1
                fresh = torch.from_numpy((piece == 0) | (done == 0) | nothing_carried)
            pieces = torch.from_numpy(piece)
            yield Step(torch.from_numpy(order[window]), self.epoch, pieces, fresh, self.groups, shift, cuts)

    def _cuts(self, number: int) -> int:
        return warmup_cuts(self.epoch * len(self) + number, self.warmup, self.stages)


def warmup_cuts(step: int, steps: int, stages: int) -> int:
    """Sequences that a row is cut into at a step of a length warm-up of 3 stages: 8, 4, 2, and 1 once it is over."""
    return 2 ** (stages - step * stages // steps) if step < steps else 1


class WindowedData(DomainData):
    """Data whose parts are windows of tokens: each evaluation reads its part once, in order.

    A subclass sets what follows, `windows` and `test_part` in its `setup`.
    """

    windows: dict[str, Windows]  # of `train`, `val` and the part that is tested
    test_part: str  # which part `test` reads
    batch_size: int  # training windows per step, over all devices
    length: int  # tokens of a training window
    eval_length: int  # tokens of an evaluation window

    def identity(self) -> dict[str, object]:
        """Tokens of each part, and their checksum."""
        checksums = {}
        for part, windows in self.windows.items():
            tokens = windows.tokens
            checksums |= {f"{part}_tokens": len(tokens.ids), f"{part}_sha256": tokens.checksum}
        return checksums

    def val_dataloader(self) -> DataLoader:
        """Every validation token, in order."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader:
        """Every test token, in order."""
        return self._evaluation(self.test_part)

    predict_dataloader = test_dataloader

    def _evaluation(self, part: str) -> DataLoader:
        # A batch holds as many tokens as in training.
        rows = max(self.batch_size * self.length // self.eval_length, 1)
        return loader(self.windows[part], ShardedBatches(self.windows[part], rows, False))
