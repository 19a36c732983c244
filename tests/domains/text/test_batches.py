"""Which tokens are read: each that should be, none twice, the same on any number of devices, also after a kill."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback

from app.errors import UserError
from app.tokens import IGNORE, Bin, TokenBatch, Tokens
from app.windows import StreamBatches, Windows, warmup_cuts
from data_prep.text import prepare
from domains.text import TextData
from domains.text.tokens import read_tokens
from tests.domains.text.conftest import QUIET, SMALL
from tests.processes import DDP, run_together


def tokens(count: int, starts: tuple[int, ...] = (0,)) -> Tokens:
    """A bin whose tokens are the numbers of their places."""
    return Tokens(np.arange(count, dtype=np.uint16), np.array(starts), 1 << 16, "bin")


def batches(windows: Windows, size: int, world: int = 1, epoch: int = 0, first: int = 0, **options) -> list[TokenBatch]:
    """All batches from `first` on, each of all devices together."""
    dealt = []
    for rank in range(world):
        sampler = StreamBatches(windows, size, replicas=world, rank=rank, **options)
        sampler.set_epoch(epoch)
        sampler.start = first
        dealt.append([windows[step] for step in sampler])
    return [joined(parts) for parts in zip(*dealt, strict=True)]


def joined(parts: tuple[TokenBatch, ...]) -> TokenBatch:
    """The rows of several devices, one after another."""
    fields = ["inputs", "targets", "fresh"] if parts[0].fresh is not None else ["inputs", "targets"]
    return TokenBatch(**{name: torch.cat([getattr(part, name) for part in parts]) for name in fields})


@pytest.mark.parametrize(("count", "length"), [(2, 1), (17, 4), (18, 4), (100, 33), (7, 50)])
def test_evaluation_scores_every_token_once(count: int, length: int) -> None:
    windows = Windows(tokens(count), length, 1, False, training=False)
    batch = windows[torch.arange(len(windows))]
    scored = batch.targets[batch.targets != IGNORE]
    assert scored.tolist() == list(range(1, count))
    assert (batch.targets == batch.inputs + 1)[batch.targets != IGNORE].all()


def test_no_window_reaches_into_another_document() -> None:
    windows = Windows(tokens(40, (0, 13, 14, 30)), 8, 1, True, training=False)
    batch = windows[torch.arange(len(windows))]
    assert windows.starts.tolist() == [0, 8, 13, 14, 22, 30, 38] and windows.sizes.tolist() == [8, 5, 1, 8, 8, 8, 1]
    assert sorted(batch.targets[batch.targets != IGNORE].tolist()) == list(range(1, 40))


@pytest.mark.parametrize("by_document", [False, True])
def test_training_reads_windows_of_the_bin_that_move_from_epoch_to_epoch(by_document: bool) -> None:
    windows = Windows(tokens(200, (0, 90)), 8, 2, by_document, training=True)
    for epoch in (0, 1):
        read = torch.cat([b.inputs[b.targets != IGNORE] for b in batches(windows, 2, epoch=epoch)])
        assert len(read) == len(read.unique()) > 150
    first = [batches(windows, 2, epoch=epoch)[0].inputs[:, 0].tolist() for epoch in (0, 1)]
    assert first[0] != first[1]


@pytest.mark.parametrize("by_document", [False, True])
@pytest.mark.parametrize(("pieces", "size", "groups"), [(1, 2, 3), (3, 2, 1), (3, 3, 3), (4, 7, 2), (4, 200, 2)])
def test_every_lane_reads_windows_piece_after_piece(pieces: int, size: int, groups: int, by_document: bool) -> None:
    """All pieces once but those that fill no turn, each from a fresh state or from where its lane stopped."""
    windows = Windows(tokens(2000, (0, 90, 97, 250)), 8, pieces, by_document, training=True)
    sampler = StreamBatches(windows, size, groups=groups, replicas=1, rank=0)
    steps, lag = list(sampler), sampler.groups
    rows = len(steps[0].rows)
    assert lag == (1 if pieces == 1 or size == 200 else groups)  # a lane holds four windows at least
    assert len(steps) == len(sampler) == windows.counts.sum() // (rows * lag) * lag
    read = [(int(row), int(piece)) for step in steps for row, piece in zip(step.rows, step.pieces, strict=True)]
    assert len(set(read)) == len(read) and all(piece < windows.counts[row] for row, piece in read)
    if pieces == 1:
        assert all(step.fresh is None for step in steps)
        return
    assert all(step.lag == lag for step in steps) and all(step.fresh.all() for step in steps[:lag])
    for before, step in zip(steps, steps[lag:], strict=False):
        on = ~step.fresh
        assert torch.equal(windows[step].inputs[on, 0], windows[before].targets[on, -1])
        assert step.fresh[step.pieces == 0].all()
    middles = [int((step.fresh & (step.pieces > 0)).sum()) for step in steps[lag:]]
    assert sum(middles) <= rows * lag  # a fresh state within a window: only where a lane's end meets its start
    if not by_document:  # no lane has reached its end yet
        begun = [int((step.pieces == 0).sum()) for step in steps[: -pieces * lag]]
        assert set(begun) <= {rows // pieces, -(-rows // pieces)}


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize(("pieces", "groups"), [(1, 1), (2, 1), (2, 3)])
def test_any_number_of_devices_reads_the_same_tokens_from_any_batch_on(world: int, pieces: int, groups: int) -> None:
    windows = Windows(tokens(1000), 8, pieces, False, training=True)
    straight = batches(windows, 4, epoch=3, groups=groups)
    for first in (0, 1, 5):
        resumed = batches(windows, 4, world, epoch=3, first=first, groups=groups)
        assert len(resumed) == len(straight) - first
        for a, b in zip(resumed, straight[first:], strict=True):
            assert torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
            assert pieces == 1 or torch.equal(a.fresh, b.fresh)


def test_carried_rows_are_equally_long_on_every_device() -> None:
    windows = Windows(tokens(40, (0, 3, 6)), 8, 2, True, training=True)
    for rank in (0, 1):
        for step in StreamBatches(windows, 2, replicas=2, rank=rank):
            assert windows[step].inputs.shape == (1, 8)


def test_length_warm_up_reads_the_same_tokens_in_shorter_sequences() -> None:
    assert [warmup_cuts(step, 6, 3) for step in range(8)] == [8, 8, 4, 4, 2, 2, 1, 1] and warmup_cuts(0, 0, 3) == 1
    windows = Windows(tokens(500), 16, 1, False, training=True)
    short, long = batches(windows, 2, warmup=6), batches(windows, 2)
    assert [b.inputs.shape for b in short[:7]] == [(16, 2), (16, 2), (8, 4), (8, 4), (4, 8), (4, 8), (2, 16)]
    for a, b in zip(short, long, strict=True):
        assert torch.equal(a.inputs.flatten(), b.inputs.flatten())
        assert torch.equal(a.targets.flatten(), b.targets.flatten())

    long = batches(Windows(tokens(1000), 16, 2, False, training=True), 2, warmup=6, groups=2)
    assert [b.fresh is None for b in long[:7]] == [True] * 6 + [False]
    # The first turn at full length carries no state, since the shorter sequences before it left none.
    assert [bool(b.fresh.all()) for b in long[6:10]] == [True, True, False, False]


def test_tokens_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(UserError, match="x: token 30 at place 30 is outside the vocabulary of 30"):
        Tokens(np.arange(60), np.array([0]), 30, "x").read(np.arange(20, 50))


def test_bins_are_those_of_their_index(prepared: Path) -> None:
    whole, path = read_tokens(prepared)[0]["train"], prepared / "train.bin"
    content = path.read_bytes()
    assert np.array_equal(np.asarray(whole.ids), np.fromfile(path, np.uint16))
    path.write_bytes(content[:-3])
    with pytest.raises(ValueError, match=r"train.bin: \d+ bytes where the index says \d+; it was cut"):
        read_tokens(prepared)
    path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    with pytest.raises(ValueError, match="train.bin: its checksum is not that of the index"):
        read_tokens(prepared)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="train.bin: there is no such file"):
        read_tokens(prepared)


def test_a_bin_that_is_cut_or_replaced_while_it_is_read(prepared: Path, data: Callable) -> None:
    path, windows = prepared / "train.bin", data(tbptt=2).windows["train"]
    rows = torch.arange(len(windows))
    before = windows[rows].inputs
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    content = path.read_bytes()
    other.replace(path)  # preparing anew replaces the file so, and the run goes on with the one it had opened
    assert torch.equal(windows[rows].inputs, before)
    again = pickle.loads(pickle.dumps(windows))  # a worker process gets a pickled copy
    assert not again[rows].inputs.any()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="train.bin: it was cut while it was read"):
        again[rows]


def test_places_of_a_bin_are_those_of_an_array(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 2**16, 999).astype("<u2")
    ids.tofile(tmp_path / "x.bin")
    stored = Bin(tmp_path / "x.bin", ids.dtype)
    places = np.minimum(np.array([[3], [990], [0]]) + np.arange(20), 998)
    assert len(stored) == 999 and np.array_equal(stored[places], ids[places])
    assert np.array_equal(np.asarray(stored, np.int64), ids) and np.array_equal(stored[places[1]], ids[places[1]])


@pytest.mark.gpu
def test_batches_come_in_page_locked_memory(data: Callable) -> None:
    batch = next(iter(data().train_dataloader()))
    assert batch.inputs.is_pinned() and batch.targets.is_pinned()


def test_a_corpus_shorter_than_a_sequence_is_refused(data: Callable) -> None:
    with pytest.raises(ValueError, match=r"train.bin: \d+ tokens, but length x tbptt needs 300001"):
        data(length=100_000, tbptt=3)


def test_what_the_config_may_not_say() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        TextData(tbptt=0)
    with pytest.raises(ValueError, match="length 100 must be divisible by 8"):
        TextData(length=100, length_warmup=5)


class Record(Callback):
    """Record what is read, and exit after `stop` steps without writing anything more, as a killed process does.

    Args:
        path: file of the tokens, a rank's number behind it.
        stop: steps after which the process dies.
    """

    def __init__(self, path: str, stop: int = 10**9) -> None:
        self.path, self.stop, self.seen = path, stop, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen.append((trainer.global_step, batch.inputs.cpu()))
        torch.save(self.seen, f"{self.path}{trainer.global_rank}")
        if trainer.global_step == self.stop:
            raise KeyboardInterrupt


def recorded(path: str, world: int = 1) -> dict[int, torch.Tensor]:
    """The tokens of each step, all devices together."""
    parts = [dict(torch.load(f"{path}{rank}")) for rank in range(world)]
    return {step: torch.cat([part[step] for part in parts]) for step in parts[0]}


def test_a_corpus_that_changed_is_not_read_from_stale_tokens(corpus: Path) -> None:
    def data() -> TextData:
        return TextData(str(corpus), "byte", 16, 4, source="file")

    def identity() -> dict[str, object]:
        data_now = data()
        data_now.setup("fit")
        return data_now.identity()

    before, file = identity(), corpus / "train.jsonl"
    file.write_text(file.read_text().replace("the", "THE"))
    with pytest.raises(ValueError, match="mine: changed since the tokens in .*mine-byte were made of it; delete these"):
        identity()
    prepare(str(corpus), "byte", workers=1)
    after = identity()
    assert before["train_tokens"] == after["train_tokens"] and before["train_sha256"] != after["train_sha256"]
    assert before["val_sha256"] == after["val_sha256"]
    shutil.move(corpus, "elsewhere")  # prepared tokens are enough without their corpus
    assert data().prepared


def record(path: str, stop: int = 10**9) -> str:
    spec = {"class_path": "tests.domains.text.test_batches.Record", "init_args": {"path": path, "stop": stop}}
    return f"--trainer.callbacks+={spec}"


# Epochs of 20 steps, in which two groups of 26 rows take turns, and a last.ckpt at every fourth step.
LONG = (
    *("--trainer.max_steps=28", "--trainer.val_check_interval=4", "--trainer.limit_val_batches=1"),
    *("--data.tbptt=2", "--data.batch_size=26", "--model.backbone.dropout=0", "--model.backbone.variant=mag"),
)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_run_goes_on_with_the_very_next_token_on_one_device_and_on_two(run: Callable, corpus: Path) -> None:
    """From within a turn of the second epoch, with states carried; the schedule asks for the length of the run."""
    straight_run = run("fit", *LONG, record("straight"))
    assert straight_run.trainer.num_training_batches == 20
    with pytest.raises(SystemExit):
        run("fit", *LONG, record("killed", stop=26))
    shutil.copy("runs/text_lm/version_1/checkpoints/last.ckpt", "killed.ckpt")
    run("fit", *LONG, "--ckpt=last", record("one"))

    ddp = [*DDP, f"--data.corpus={corpus}", "--ckpt=killed.ckpt", record("two")]
    run_together(2, ["fit", *SMALL, *QUIET, *LONG, *ddp])

    straight, killed = recorded("straight"), recorded("killed")
    assert list(killed) == list(range(1, 27))
    for resumed in (recorded("one"), recorded("two", world=2)):
        assert list(resumed) == list(range(25, 29))
        for step, tokens in {**killed, **resumed}.items():
            assert torch.equal(tokens, straight[step]), step
    alone, one, two = (torch.load(f"runs/text_lm/version_{n}/checkpoints/last.ckpt")["state_dict"] for n in range(3))
    for name in (name for name in alone if "weight" in name):
        assert torch.equal(one[name], alone[name]), name
        torch.testing.assert_close(two[name], alone[name], rtol=1e-4, atol=1e-5, msg=name)
