"""Read texts of any length piece by piece, as states of constant size allow, and go on from what was read."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from app.errors import UserError
from app.files import damage, save_tensors
from app.module import TitansModule
from app.reading import reading
from domains.text.head import LanguageHead
from domains.text.replay import Pieces
from domains.text.sampling import Sampling, generated
from memory import BackboneState, read_unequal

PIECE = 4096  # tokens that are read at a time


class Reader:
    """A model that is reading B texts at once, and its state.

    Args:
        module: a trained `TitansModule` with a `LanguageHead`.
        precision: autocast dtype on a GPU; None for float32.
    """

    def __init__(self, module: TitansModule, precision: torch.dtype | None = torch.bfloat16) -> None:
        self.module = module
        self.head = cast(LanguageHead, module.head)
        self.device = self.head.embedding.weight.device
        self.precision = precision if self.device.type == "cuda" else None
        self.hidden: Tensor | None = None  # after the last token, [B, D]
        self.read_tokens = 0
        # A bound method would form a reference cycle, and the memory of a CUDA graph would live until the garbage
        # collector runs.
        self.forward = partial(_forward, module, self.precision)
        self.pieces = Pieces(self.forward)

    @property
    def state(self) -> BackboneState | None:
        """After what has been read."""
        return self.pieces.state

    @state.setter
    def state(self, state: BackboneState | None) -> None:
        self.pieces.state = state

    @torch.inference_mode()
    def read(self, ids: Tensor, piece: int = PIECE, each: Callable[[int], None] | None = None) -> Tensor:
        """Read tokens ids [B, T] and return the logits [B, V] of the one after the last.

        Memory in use does not depend on T, but for the state of `attention`.

        Args:
            ids: int64, on any device.
            piece: tokens at a time.
            each: called with the number of tokens read so far after each piece.
        """
        if not ids.shape[1]:
            raise UserError("nothing to read: give at least one token")

        def count(part: Tensor) -> None:
            self.read_tokens += part.shape[1]
            if each:
                each(self.read_tokens)

        parts = (part.to(self.device, non_blocking=True) for part in ids.split(piece, 1))
        self.hidden = self.pieces.read(parts, count)
        return self.logits()

    @torch.inference_mode()
    def advance(self, ids: Tensor) -> Tensor:
        """Read tokens ids [B, T] at once, from any device, and return their hidden states [B, T, D]."""
        hidden, self.state = self.forward(ids.to(self.device, non_blocking=True), self.state)
        return hidden

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """Logits [B, V], float32, of the token after the last one read."""
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            return self.head.logits(self.hidden)

    def generate(
        self, logits: Tensor, tokens: int, sampling: Sampling, generator: torch.Generator | None = None
    ) -> Iterator[Tensor]:
        """`generated` behind what has been read."""
        return generated(logits, lambda chosen: self.read(chosen[:, None]), tokens, sampling, generator)

    @torch.inference_mode()
    def read_each(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, BackboneState]:
        """Read prompts of any length, each behind the one text read so far, which is left as it is.

        Args:
            prompts: ids of each, at least one, or a single prompt of none; one alone where the backbone has no `steps`.
            room: tokens that each may have in all; see `TitansBackbone.apart`.

        Returns:
            logits [P, V] of the token after each, and the state, whose rows are apart where they can be.
        """
        if not self.module.backbone.steps:
            return self._read_alone(*prompts)
        before = self.state
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            if not any(prompts):
                assert before is not None, "something has been read"
                return self.logits(), self.module.backbone.apart(before, room)
            ids = pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True).to(self.device)
            lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
            mask = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
            if before is not None:
                before = before.map(lambda t: t.repeat_interleave(len(prompts), 0))
            hidden, state = read_unequal(self.module.backbone, self.head.embed_ids(ids), mask, before, room)
            last = hidden[torch.arange(len(prompts), device=self.device), lengths - 1]
            return self.head.logits(last), state

    def _read_alone(self, prompt: Sequence[int]) -> tuple[Tensor, BackboneState]:
        alone = Reader(self.module, self.precision)
        alone.state = self.state
        alone.hidden = self.hidden
        logits = alone.read(torch.tensor([prompt])) if prompt else self.logits()
        return logits, cast(BackboneState, alone.state)

    def save(self, path: Path) -> None:
        """Write the state, so that another process can go on from here.

        Raises:
            UserError: it cannot be written; what the file held before is left.
        """
        content = {"state": self.state, "hidden": self.hidden, "tokens": self.read_tokens, "model": self._fingerprint()}
        save_tensors(path, content)

    def load(self, path: Path) -> None:
        """Go on from a saved state.

        Raises:
            UserError: there is no such file, or it is of another model.
            Unreadable: it is damaged, or no state.
        """
        if not path.exists():
            raise UserError(f"--state {path}: there is no such file; write one with --context FILE --save")
        with reading(f"--state {path}", "a saved state", "read the context again") as at:
            if (place := damage(path)) is not None:
                raise at.error(f"damaged, or not a saved state, in {place}")
            content = torch.load(path, map_location=self.device, weights_only=True)
            state, hidden, tokens, model = (content[name] for name in ("state", "hidden", "tokens", "model"))
            if not isinstance(state, BackboneState) or not isinstance(hidden, Tensor) or type(tokens) is not int:
                raise at.error("not a saved state")
            numbers = [tensor for tensor in (hidden, *state.tensors()) if tensor.is_floating_point()]
            if not all(tensor.isfinite().all() for tensor in numbers):
                raise at.error("it holds numbers that are not finite")
            if model != self._fingerprint():
                raise UserError(
                    f"--state {path} belongs to other weights than --ckpt, or to another --no_forgetting; "
                    "read the context again with these"
                )
            with torch.inference_mode():  # whether it can be gone on from; a state is a value, which this leaves alone
                after, _ = self.forward(torch.tensor([[self.head.end]], device=self.device), state)
            alike = hidden.shape == after[:, -1].shape and hidden.is_floating_point()
            if not alike or tokens < 0 or state.apart:
                raise at.error("not a saved state of this model")
            if not after.isfinite().all():
                raise at.error("it holds numbers that are too large to go on from")
        self.state = state
        self.hidden = hidden
        self.read_tokens = tokens

    def _fingerprint(self) -> str:
        total = hashlib.sha256()
        for name, tensor in self.module.named_parameters():
            total.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return total.hexdigest()


def _forward(
    module: TitansModule, precision: torch.dtype | None, ids: Tensor, state: BackboneState | None
) -> tuple[Tensor, BackboneState]:
    with torch.autocast(ids.device.type, precision, enabled=precision is not None):
        return module.backbone(module.head.embed_ids(ids), state)
