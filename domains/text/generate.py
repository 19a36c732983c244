"""Text from a trained model: read a context into the state, then one token after another.

    python -m app generate --ckpt runs/NAME/version_0/checkpoints/best.ckpt --prompt "Once upon a time"
    python -m app generate --ckpt ... --context book.txt --save book.state --prompt "The murderer was"
    python -m app generate --ckpt ... --state book.state --prompt "The inspector"

The state is of constant size for lmm and mac, bounded by the window for mag, mal and swa, and grows for attention.
"""

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from torch import Tensor

from app.errors import UserError
from app.files import damage, save_tensors
from app.module import TitansModule, load_module
from app.reading import reading
from domains.text.head import LanguageHead
from domains.text.replay import Pieces
from memory import BackboneState

PIECE = 4096  # tokens that are read at a time


@dataclass
class Sampling:
    """How the next token is chosen from the logits.

    Args:
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: keep the k likeliest tokens; 0 for all.
        top_p: keep the likeliest tokens whose probabilities first add up to this.
        min_p: keep tokens at least this fraction as likely as the likeliest.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1 or not 0 <= self.min_p <= 1:
            raise UserError("temperature and top-k must not be negative, top-p lie in (0, 1] and min-p in [0, 1]")

    def probabilities(self, logits: Tensor) -> Tensor:
        """What the next token is drawn from, [B, V], for logits [B, V] and a temperature above zero."""
        p = (logits / self.temperature).softmax(-1)
        if self.top_k:
            least = p.topk(min(self.top_k, p.shape[-1])).values[..., -1:]
            p = p.masked_fill(p < least, 0)
        if self.top_p < 1:
            ordered, ids = p.div(p.sum(-1, keepdim=True)).sort(-1, descending=True)
            before = ordered.cumsum(-1) - ordered
            p = p.masked_fill((before >= self.top_p).scatter(-1, ids, before >= self.top_p), 0)
        if self.min_p:
            p = p.masked_fill(p < self.min_p * p.max(-1, keepdim=True).values, 0)
        return p / p.sum(-1, keepdim=True)

    def choose(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """The next token of each row, [B], from logits [B, V]."""
        if self.temperature == 0:
            return logits.argmax(-1)
        return torch.multinomial(self.probabilities(logits), 1, generator=generator)[:, 0]


class Reader:
    """A model that is reading B texts at once, and its state.

    Args:
        module: a trained `TitansModule` with a `LanguageHead`.
        precision: autocast dtype on a GPU; None for float32.
    """

    def __init__(self, module: TitansModule, precision: torch.dtype | None = torch.bfloat16) -> None:
        self.module = module
        self.device = module.head.embedding.weight.device
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
            return self.module.head.logits(self.hidden)

    def generate(
        self, logits: Tensor, tokens: int, sampling: Sampling, generator: torch.Generator | None = None
    ) -> Iterator[Tensor]:
        """Choose and read up to `tokens` tokens [B], starting from `logits` [B, V]; they stay on the device."""
        for left in range(tokens, 0, -1):
            chosen = sampling.choose(logits, generator)
            yield chosen
            if left > 1:
                logits = self.read(chosen[:, None])

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
        if model != self._fingerprint():
            raise UserError(
                f"--state {path} belongs to other weights than --ckpt, or to another --no-forgetting; "
                "read the context again with these"
            )
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


def completions(
    module: TitansModule,
    prompts: Sequence[Sequence[int]],
    batch: int,
    tokens: int,
    sampling: Sampling,
    done: Callable[[int, str], bool],
) -> Iterator[tuple[int, list[int], str]]:
    """What a model writes behind each prompt: the prompt's number, ids, and their text up to the end of the document.

    Prompts of one length are read together, so that nothing is padded, shortest first.

    Args:
        prompts: ids, each with the token before a document.
        batch: prompts at a time.
        tokens: most tokens that are written behind one.
        sampling: how they are chosen, with a generator of seed 0.
        done: whether the text behind prompt NUMBER needs no more tokens; so is one that the model ended.
    """
    head = module.head
    generator = torch.Generator(module.head.embedding.weight.device).manual_seed(0)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for _, group in groupby(order, key=lambda number: len(prompts[number])):
        same = list(group)
        for numbers in (same[i : i + batch] for i in range(0, len(same), batch)):
            reader = Reader(module)
            logits = reader.read(torch.from_numpy(np.stack([prompts[number] for number in numbers])))
            written: list[list[int]] = [[] for _ in numbers]
            for chosen in reader.generate(logits, tokens, sampling, generator):
                for ids, token in zip(written, chosen.tolist(), strict=True):
                    ids.append(token)
                cut = [ids[: ids.index(head.end)] if head.end in ids else ids for ids in written]
                texts = [head.tokenizer.decode(ids) for ids in cut]
                if all(len(c) < len(w) or done(n, t) for n, c, w, t in zip(numbers, cut, written, texts, strict=True)):
                    break
            yield from zip(numbers, written, texts, strict=True)


def stream(chosen: Iterator[Tensor], tokenizer: Tokenizer, end: int) -> Iterator[str]:
    """The text of one row of tokens as it grows, whole characters only, up to the end of the document."""
    decoder = DecodeStream(skip_special_tokens=True)
    for ids in chosen:
        if (token := int(ids[0])) == end:
            return
        if text := decoder.step(tokenizer, token):
            yield text


def main(arguments: argparse.Namespace) -> None:
    """The verb `generate`."""
    write(load_module(arguments.ckpt, LanguageHead), arguments)


def write(module: TitansModule, arguments: argparse.Namespace) -> None:
    """Print a prompt and what the model writes behind it; for the options see `domains.text.verbs`."""
    if arguments.no_forgetting:
        module.backbone.stop_forgetting()
    head = module.head
    reader = Reader(module)
    generator = torch.Generator(reader.device).manual_seed(arguments.seed)
    sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p, arguments.min_p)
    if arguments.state:
        reader.load(arguments.state)
    before = [] if arguments.state else [head.end]
    context = head.encode(_text(arguments.context)) if arguments.context else []
    prompt = head.encode(arguments.prompt)
    _check_length(module, reader.read_tokens + len(before + context + prompt), arguments.tokens)
    logits = reader.logits() if arguments.state else None
    if before + context:
        total = len(before + context)
        logits = reader.read(torch.tensor([before + context]), each=lambda n: _tell(n, total))
    if arguments.save:
        reader.save(arguments.save)
        print(f"state after {reader.read_tokens:,} tokens: {arguments.save}", file=sys.stderr)
    if prompt:
        logits = reader.read(torch.tensor([prompt]))
    print(arguments.prompt, end="", flush=True)
    for text in stream(reader.generate(logits, arguments.tokens, sampling, generator), head.tokenizer, head.end):
        print(text, end="", flush=True)
    print()


def _tell(tokens: int, total: int) -> None:
    if total > PIECE:
        end = "\n" if tokens == total else ""
        print(f"\rread {tokens:,} of {total:,} tokens", end=end, file=sys.stderr, flush=True)


def _text(path: Path) -> str:
    with reading(f"--context {path}", "UTF-8 text", "convert it"):
        return path.read_text(encoding="utf-8")


def _check_length(module: TitansModule, before: int, tokens: int) -> None:
    """Refuse what full attention was never trained to see; every other variant reads on for ever."""
    context = module.head.context
    if module.backbone.config.variant == "attention" and before + tokens > context:
        raise UserError(
            f"{before} tokens of prompt and {tokens} to generate are more than the {context} that this attention model "
            "was trained on; shorten them, or use a variant with memory"
        )
