"""Text from a trained model: read a context into the state, then one token after another.

    python -m app generate --ckpt runs/NAME/version_0/checkpoints/best.ckpt --prompt "Once upon a time"
    python -m app generate --ckpt ... --context book.txt --save book.state --prompt "The murderer was"
    python -m app generate --ckpt ... --state book.state --prompt "The inspector"
    python -m app generate --ckpt ... --state chat.state --prompt "And then?" --save_turn chat.state
    python -m app generate --ckpt ... --input prompts.txt --samples 4 --stop "." --json > answers.jsonl

The state is of constant size for lmm and mac, bounded by the window for mag, mal and swa, and grows for attention.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, tee
from pathlib import Path
from tempfile import TemporaryFile
from typing import cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from app.errors import UserError
from app.files import check_replaceable, unwritable
from app.module import TitansModule, load_module
from app.reading import reading
from domains.text.decoder import Decoder
from domains.text.detokenizer import AROUND, Detokenizer
from domains.text.head import LanguageHead
from domains.text.reader import PIECE, Reader
from domains.text.sampling import Sampling, generated
from memory import BackboneState

ROWS = 64  # texts that are written at a time


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


def stream(chosen: Iterator[Tensor], tokenizer: Tokenizer, end: int, before: Sequence[int] = ()) -> Iterator[str]:
    """The text of one row of tokens as it grows, whole characters only, up to the end of the document.

    Args:
        chosen: ids [1] of each.
        tokenizer: to decode with.
        end: the token that ends a document.
        before: ids that stand before the text; see `Detokenizer`.
    """
    decoder = Detokenizer(tokenizer, before)
    for ids in chosen:
        if (token := int(ids[0])) == end:
            return
        if text := decoder.more(token):
            yield text


class Stops:
    """A text that grows up to the first stop string; what may be the beginning of one waits until that is known.

    Args:
        stops: texts that end it, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = stops
        self.longest = max(map(len, stops), default=1)
        self.waiting = ""

    def more(self, text: str) -> tuple[str, bool]:
        """What is known of the text now, and whether that was its end."""
        self.waiting += text
        places = [self.waiting.index(stop) for stop in self.stops if stop in self.waiting]
        known = min(places) if places else max(len(self.waiting) - self.longest + 1, 0)
        text = self.waiting[:known]
        self.waiting = self.waiting[known:]
        return text, bool(places)


def until(texts: Iterator[str], stops: Sequence[str]) -> Iterator[str]:
    """A text as it grows, up to the first stop string."""
    held = Stops(stops)
    for text in texts:
        known, ended = held.more(text)
        yield known
        if ended:
            return
    yield held.waiting


def main(arguments: argparse.Namespace) -> None:
    """The verb `generate`."""
    write(load_module(arguments.ckpt, LanguageHead), arguments)


def write(module: TitansModule, arguments: argparse.Namespace) -> None:
    """Print prompts and what the model writes behind each; for the options see `domains.text.verbs`.

    Raises:
        UserError: an option is not what it should be; nothing has been read by the model yet.
    """
    sampling = _sampling(arguments)
    for path in filter(None, (arguments.save, arguments.save_turn)):
        _check_writable(path)
    if arguments.no_forgetting:
        module.backbone.stop_forgetting()
    head = cast(LanguageHead, module.head)
    reader = Reader(module)
    if arguments.state:
        reader.load(arguments.state)
    before = [] if arguments.state else [head.end]
    context = head.encode(_text("--context", arguments.context)) if arguments.context else []
    prompts = _prompts(arguments)
    encoded = [head.encode(prompt) for prompt in prompts]
    longest = max(map(len, encoded))
    _check_length(module, reader.read_tokens + len(before + context) + longest, arguments.tokens)
    if before + context:
        total = len(before + context)
        reader.read(torch.tensor([before + context]), each=lambda n: _tell(n, total))
    if arguments.save:
        reader.save(arguments.save)
        print(f"state after {reader.read_tokens:,} tokens: {arguments.save}", file=sys.stderr)
    generator = torch.Generator(reader.device).manual_seed(arguments.seed)
    at_once = max(ROWS // arguments.samples, 1) if module.backbone.steps else 1
    for first in range(0, len(prompts), at_once):
        batch = range(first, min(first + at_once, len(prompts)))
        rows = [(number, sample) for number in batch for sample in range(arguments.samples)]
        chosen = _written(reader, [encoded[number] for number in batch], arguments, sampling, generator)
        # Rows are written side by side; each takes of all steps what it needs, and more are made as one asks for them.
        for row, (steps, (number, sample)) in enumerate(zip(tee(chosen, len(rows)), rows, strict=True)):
            read = [*context[-AROUND:], *encoded[number]]
            taken: list[Tensor] = []
            text = until(stream(_row(steps, row, taken), head.tokenizer, head.end, read), arguments.stop)
            said = ""
            if arguments.json:
                said = "".join(text)
                line = {"prompt": prompts[number], "sample": sample, "text": said}
                print(json.dumps(line), flush=True)  # in ASCII, so that a line is one line whatever reads it
            else:
                if len(prompts) * arguments.samples > 1:
                    print(f"=== prompt {number + 1}, sample {sample + 1}")
                print(prompts[number], end="", flush=True)
                for piece in text:
                    print(piece, end="", flush=True)
                    said += piece
                print()
            if arguments.save_turn:
                _save_turn(reader, encoded[number] + _said(head, read, taken, said), arguments.save_turn)


def _written(
    reader: Reader,
    prompts: list[list[int]],
    arguments: argparse.Namespace,
    sampling: Sampling,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Tokens [P * samples] behind each prompt, a step at a time, with the samples of a prompt side by side."""
    tokens = arguments.tokens
    room = reader.read_tokens + max(map(len, prompts)) + tokens
    logits, state = reader.read_each(prompts, room)
    logits = logits.repeat_interleave(arguments.samples, 0)
    state = state.map(lambda t: t.repeat_interleave(arguments.samples, 0))
    given = [prompt for prompt in prompts for _ in range(arguments.samples)]
    yield from generated(logits, _reads(reader, state), tokens, sampling, generator, given)


def _reads(reader: Reader, state: BackboneState) -> Callable[[Tensor], Tensor]:
    """What reads one token of each row, [B], behind a state, and returns the logits of the next."""
    if not state.apart:
        together = Reader(reader.module, reader.precision)
        together.state = state
        return lambda chosen: together.read(chosen[:, None])
    decoder = Decoder(reader.module, state, len(state.tensors()[0]), reader.precision)
    decoder.put(slice(None), state)

    def read(chosen: Tensor) -> Tensor:
        decoder.ids.copy_(chosen)
        return decoder.step()

    return read


def _row(steps: Iterator[Tensor], row: int, taken: list[Tensor]) -> Iterator[Tensor]:
    """One row of tokens [B] as they are chosen, [1] each, which are appended to `taken` as well."""
    for chosen in steps:
        taken.append(chosen[row : row + 1])
        yield taken[-1]


def _said(head: LanguageHead, before: list[int], taken: list[Tensor], text: str) -> list[int]:
    """The tokens behind others that a text is made of, without those that hold any of what ended it."""
    ids = torch.cat(taken).tolist() if taken else []
    ids = ids[:-1] if ids[-1:] == [head.end] else ids
    known = len(head.tokenizer.decode(before))
    while ids and len(head.tokenizer.decode(before + ids)) - known > len(text):
        ids = ids[:-1]
    return ids


def _save_turn(reader: Reader, ids: list[int], path: Path) -> None:
    """Read what was asked and answered, and write the state that a conversation goes on from."""
    if ids:
        reader.read(torch.tensor([ids]))
    reader.save(path)
    print(f"state after {reader.read_tokens:,} tokens: {path}", file=sys.stderr)


def _sampling(arguments: argparse.Namespace) -> Sampling:
    """How tokens are chosen, once all options that are numbers or stop strings are known to be good."""
    if arguments.tokens < 0 or arguments.samples < 1:
        raise UserError("--tokens must not be negative, and --samples be at least 1")
    if arguments.save_turn and (arguments.input or arguments.samples > 1):
        raise UserError("--save_turn writes the state after one text; give one --prompt and no --samples")
    if "" in arguments.stop:
        raise UserError("--stop is empty, which would end every text at once; leave it out or give a text")
    if not -(2**63) <= arguments.seed < 2**63:
        raise UserError(f"--seed {arguments.seed}: must fit into 64 bits")
    return Sampling(
        arguments.temperature, arguments.top_k, arguments.top_p, arguments.min_p, arguments.repetition_penalty
    )


def _prompts(arguments: argparse.Namespace) -> list[str]:
    """The prompt, or one from each line of a file that is not empty.

    Raises:
        UserError: both are there, a prompt is no UTF-8, or the file holds none.
    """
    if arguments.input is None:
        try:
            arguments.prompt.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"--prompt: character {error.start + 1} is not UTF-8; set a UTF-8 locale") from error
        return [arguments.prompt]
    if arguments.prompt:
        raise UserError("--prompt and --input both give prompts; leave one out")
    prompts = [line for line in _text("--input", arguments.input).split("\n") if line.strip()]
    if not prompts:
        raise UserError(f"--input {arguments.input}: holds no prompt; write one a line")
    print(f"{arguments.input}: {len(prompts)} prompts, one a line; empty lines are left out", file=sys.stderr)
    return prompts


def _check_writable(path: Path) -> None:
    """Refuse a file that could not be written later, as soon as that can be known."""
    try:
        check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def _tell(tokens: int, total: int) -> None:
    if total > PIECE:
        end = "\n" if tokens == total else ""
        print(f"\rread {tokens:,} of {total:,} tokens", end=end, file=sys.stderr, flush=True)


def _text(option: str, path: Path) -> str:
    with reading(f"{option} {path}", "UTF-8 text", "convert it"):
        return path.read_text(encoding="utf-8")


def _check_length(module: TitansModule, before: int, tokens: int) -> None:
    """Refuse what full attention was never trained to see; every other variant reads on for ever."""
    context = module.head.context
    if module.backbone.config.variant == "attention" and before + tokens > context:
        raise UserError(
            f"{before} tokens of prompt and {tokens} to generate are more than the {context} that this attention model "
            "was trained on; shorten them, or use a variant with memory"
        )
