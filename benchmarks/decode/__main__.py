"""What one token more costs behind a short and a long context, and what a server makes of it: benchmarks.decode.

The model is that of a YAML with random weights, whose speed is that of trained ones. A context is read once, copied to
every row of a batch, and each row goes on greedily, a token a step, by the decoder that generation and the server use:
one CUDA graph a step on a GPU, in bf16. Attention over the whole past has room for the context and the new tokens, and
writes into its cache in place. Memory is all that the process holds while it decodes: weights, states, the graph.

Streams are requests to the server's engine, without HTTP, one for each row of mag: a short prompt and as many tokens
each. One stream is measured in an engine of one row. In float32, each stream is written once more alone, in the same
engine and in one of a single row.
"""

import argparse
import gc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import cast

import torch

from app.module import TitansModule
from app.versions import device_name
from benchmarks.decode.page import EQUAL, EQUAL_SINGLE, FLAT, MEMORY, SPEED, STREAMS, TIMES, TIMES_ONE, where
from benchmarks.shared.rows import Row, command_line, spread, write
from benchmarks.shared.runs import CONF
from benchmarks.shared.timing import attempt, file_name
from benchmarks.streaming import untrained
from data_prep.tokenizer import END, byte_level
from domains.text import LanguageHead
from domains.text.decoder import Decoder
from domains.text.reader import Reader
from domains.text.sampling import Sampling
from domains.text.serving.engine import Engine, Request
from memory import BackboneState

CONTROL = "attention"
SERVED = "mag"  # the variant whose streams are measured
REPEATS = 3
WARM_UP = 8  # steps
PROMPT = 16  # tokens of a stream's prompt


class Given(argparse.Namespace):
    """The command line."""

    config: Path
    variants: list[str]
    contexts: list[int]
    batches: list[int]
    streams: list[int]
    tokens: int
    name: str | None


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free() -> None:
    """Give a GPU's memory back that no tensor holds."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


class Benchmark:
    """Measures, prints and keeps rows."""

    def __init__(self, given: Given) -> None:
        self.given = given
        self.rows: dict[str, Row] = {}
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = torch.bfloat16 if self.device.type == "cuda" else None
        self.command = command_line("decode")

    def add(self, metric: str, values: Sequence[float], unit: str, must: str = "", note: str = "") -> None:
        """Keep one row; no values where it could not be measured, and `note` says why."""
        value = median(values) if values else float("nan")
        device = device_name(self.device)
        self.rows[metric] = Row(
            metric, value, spread(list(values)), unit, must, "", [0], device, self.command, note=note
        )
        print(f"{metric}: {value:.4g} {unit}{f' ({note})' if note else ''}", flush=True)

    def decode(self, module: TitansModule, variant: str, context: int) -> None:
        """Speed and memory of batches behind a context."""
        read, unread = attempt(partial(self._read, module, context))
        row = cast(BackboneState | None, read)
        for batch in self.given.batches:
            free()
            speeds: list[float] = []
            held: list[float] = []
            why = unread
            if row is not None:
                measured, why = attempt(partial(self._decode, module, row, batch))
                speeds, held = cast(tuple[list[float], list[float]], measured or ([], []))
                gib = batch * sum(t.nbytes for t in row.tensors()) / 2**30
                why = why and f"{why}; states take {gib:.1f} GiB"
            self.add(where(variant, batch, context, SPEED), speeds, "tokens/s", note=why)
            self.add(where(variant, batch, context, MEMORY), held, "GiB", note=why)

    def _read(self, module: TitansModule, context: int) -> BackboneState:
        """The state of one text behind a context.

        It is on the host: the device holds nothing of what reading took when memory is measured.
        """
        head = cast(LanguageHead, module.head)
        ids = torch.randint(head.vocabulary, (context,)).tolist()
        room = context + WARM_UP + REPEATS * self.given.tokens
        _, state = Reader(module, self.precision).read_each([ids], room)
        return state.to("cpu")

    @torch.inference_mode()
    def _decode(self, module: TitansModule, row: BackboneState, batch: int) -> tuple[list[float], list[float]]:
        decoder = Decoder(module, row, batch, self.precision)
        decoder.put(slice(None), row.to(self.device))
        free()
        decoder.ids.random_(decoder.head.vocabulary)
        held = [torch.cuda.memory_reserved() / 2**30] if self.device.type == "cuda" else []
        self._seconds(decoder.step, WARM_UP)
        speeds = []
        for _ in range(REPEATS):
            speeds.append(batch * self.given.tokens / self._seconds(decoder.step, self.given.tokens))
        return speeds, held

    def _seconds(self, step: Callable, times: int) -> float:
        synchronize()
        start = perf_counter()
        for _ in range(times):
            step()
        synchronize()
        return perf_counter() - start

    def compare(self, variant: str) -> None:
        """Each variant beside attention, and the last context beside the first."""
        given = self.given
        for batch in given.batches:
            for context in given.contexts:
                ours, theirs = (self.rows.get(where(name, batch, context, SPEED)) for name in (variant, CONTROL))
                if ours is not None and theirs is not None and theirs.value == theirs.value:
                    must = ">= 1" if batch == 64 and context >= 16384 else ""
                    self.add(where(variant, batch, context, TIMES), [ours.value / theirs.value], "", must)
            first, last = (self.rows[where(variant, batch, n, MEMORY)] for n in (given.contexts[0], given.contexts[-1]))
            if first.value == first.value:
                self.add(where(variant, batch, given.contexts[-1], FLAT), [last.value / first.value], "", "<= 1.02")

    def serve(self, module: TitansModule, variant: str, precision: torch.dtype | None) -> None:
        """Streams at once, and in float32 whether each is what it is alone."""
        name = f"{variant}, {'float32' if precision is None else 'bf16'}"
        head = cast(LanguageHead, module.head)
        random = Random(0)
        streams = max(self.given.streams)
        prompts = [[random.randrange(head.vocabulary) for _ in range(PROMPT)] for _ in range(streams)]
        one = None
        texts = []
        for rows in self.given.streams:
            engine = Engine(module, rows, streams, precision)
            written(engine, prompts[:rows], WARM_UP)
            speeds = []
            for _ in range(REPEATS):
                start = perf_counter()
                texts, tokens = written(engine, prompts[:rows], self.given.tokens)
                speeds.append(tokens / (perf_counter() - start))
            self.add(f"{name}, {rows} {STREAMS}", speeds, "tokens/s")
            one = median(speeds) if one is None else one
            if rows != self.given.streams[0]:
                must = {8: ">= 5", 64: ">= 25"}.get(rows, "")
                self.add(f"{name}, {rows} {TIMES_ONE}", [median(speeds) / one], "", must)
            if precision is None:
                self.add(f"{name}, {rows} {EQUAL}", [self._share(engine, texts, prompts)], "", ">= 1")
            del engine
            free()
        if precision is None:
            engine = Engine(module, 1, 1, precision)
            self.add(f"{name}, {len(texts)} {EQUAL_SINGLE}", [self._share(engine, texts, prompts)], "")
            del engine
            free()

    def _share(self, engine: Engine, texts: list[str], prompts: list[list[int]]) -> float:
        """Share of texts that an engine writes just so, one after the other."""
        same = 0
        for text, prompt in zip(texts, prompts, strict=False):
            [alone], _ = written(engine, [prompt], self.given.tokens)
            same += alone == text
        return same / len(texts)


def written(engine: Engine, prompts: Sequence[list[int]], tokens: int) -> tuple[list[str], int]:
    """What an engine writes greedily behind prompts, all under way at once, and how many tokens it is."""
    texts = [""] * len(prompts)

    def collect(i: int, text: str, why: str | None) -> None:
        texts[i] += text

    requests = []
    for i, ids in enumerate(prompts):
        requests.append(Request(ids, tokens, Sampling(temperature=0), (), 0, partial(collect, i)))
    engine.submit(*requests)
    while engine.step():
        pass
    return texts, sum(request.written for request in requests)


def words(vocabulary: int) -> str:
    """A tokenizer of so many tokens that differ, as JSON: a random model has none."""
    return byte_level({END: vocabulary - 1} | {f"w{i}": i for i in range(vocabulary - 1)}).to_str()


def names(text: str) -> list[str]:
    """Words separated by commas."""
    return text.split(",")


def numbers(text: str) -> list[int]:
    """Numbers separated by commas, sorted."""
    return sorted(map(int, text.split(",")))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__)
    parser.add_argument("--config", type=Path, default=CONF / "text_books.yaml", help="by default text_books.yaml")
    parser.add_argument("--variants", type=names, default="attention,mag,lmm,mac", help="of the model (%(default)s)")
    parser.add_argument("--contexts", type=numbers, default="1024,16384,131072", help="tokens (%(default)s)")
    parser.add_argument("--batches", type=numbers, default="1,8,64", help="rows (%(default)s)")
    parser.add_argument("--streams", type=numbers, default="1,8,64", help=f"of the server, with {SERVED} (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="to decode in each measurement (%(default)s)")
    parser.add_argument("--name", help="of the file in results/decode (decode_ and the device)")
    given = parser.parse_args(argv, Given())
    benchmark = Benchmark(given)
    on_gpu = benchmark.device.type == "cuda"
    name = given.name or (file_name("decode", device_name(benchmark.device)) if on_gpu else "decode_cpu")
    for variant in given.variants:
        torch.manual_seed(0)
        module = untrained(given.config, variant)
        head = cast(LanguageHead, module.head)
        head.tokenizer_json = words(head.vocabulary)
        for context in given.contexts:
            benchmark.decode(module, variant, context)
        if variant != CONTROL:
            benchmark.compare(variant)
        if variant == SERVED:
            for precision in dict.fromkeys((benchmark.precision, None)):
                benchmark.serve(module, variant, precision)
        write("decode", name, list(benchmark.rows.values()))
        del module
        free()


if __name__ == "__main__":
    main()
