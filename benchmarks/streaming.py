"""Does reading on and on cost the same? `python -m benchmarks.streaming --ckpt FILE`, or an untrained `--config FILE`.

One sequence of random tokens is read in pieces, with its state carried; time of each stretch, and the most memory held
in it. A few pieces are read before the first stretch: kernels are compiled and a CUDA graph is captured in them.
"""

import argparse
import resource
from pathlib import Path
from time import perf_counter

import torch

from app.module import TitansModule, load_module
from app.versions import device_name
from benchmarks.shared.models import backbone_of
from benchmarks.shared.rows import Row, command_line, write
from benchmarks.shared.runs import CONF, resolved
from domains.text import LanguageHead
from domains.text.reader import Reader

FIRST, LAST = 4096, 1 << 21
BEFORE = 8  # pieces that are read before the first stretch


def untrained(config: Path, variant: str | None) -> TitansModule:
    """The model of a YAML with random weights: what it costs does not depend on them."""
    options = resolved(["--config", str(config)])["model"]["backbone"]
    backbone = backbone_of(options | {"variant": variant or options["variant"]})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TitansModule(LanguageHead(backbone.dim, 50257), backbone).to(device).eval()


def peak(device: torch.device) -> float:
    """Most memory held since it was last asked, in MiB, a graph's own included; on a CPU, the process's ever."""
    if device.type != "cuda":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    value = torch.cuda.max_memory_reserved(device) / 2**20
    torch.cuda.reset_peak_memory_stats(device)
    return value


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", help="a trained model")
    parser.add_argument("--config", type=Path, default=CONF / "text_books.yaml", help="or an untrained one")
    parser.add_argument("--variants", help="of the untrained one, separated by commas; by default the config's")
    parser.add_argument("--tokens", type=int, default=LAST, help="to read (%(default)s)")
    parser.add_argument("--piece", type=int, default=FIRST, help="tokens at a time (%(default)s)")
    parser.add_argument("--name", default="streaming", help="of the results (%(default)s)")
    given = parser.parse_args()
    rows = []
    for variant in (given.variants or "").split(","):
        module = load_module(given.ckpt) if given.ckpt else untrained(given.config, variant or None)
        rows += measure(module, given)
        write("streaming", given.name, rows)


@torch.inference_mode()
def measure(module: TitansModule, given: argparse.Namespace) -> list[Row]:
    """Rows of one model: tokens per second and peak memory up to 4K, 8K, ... tokens, and how flat they are."""
    name, reader, device = module.backbone.config.variant, Reader(module), module.head.embedding.weight.device

    def read(tokens: int) -> float:
        """Seconds that it takes."""
        ids, start = torch.randint(module.head.vocabulary, (1, tokens)), perf_counter()
        reader.read(ids, given.piece).sum().item()  # waits for the device
        return perf_counter() - start

    read(BEFORE * given.piece)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what no graph needs
    peak(device)
    measured, done = [], 0
    while done < given.tokens:
        stretch = max(done, given.piece)
        speed, done = stretch / read(stretch), done + stretch
        measured.append((done, speed, peak(device)))
        print(f"{name}: {done:,} tokens, {speed:,.0f} tokens/s, peak {measured[-1][2]:,.1f} MiB", flush=True)
    shared = {"spread": None, "seeds": [0], "device": device_name(device)}
    shared |= {"command": command_line("streaming")}
    rows = []
    for tokens, speed, memory in measured:
        rows.append(
            Row(f"{name} tokens per second, up to {tokens:,}", speed, unit="tokens/s", must="", aim="", **shared)
        )
        rows.append(Row(f"{name} peak memory, up to {tokens:,}", memory, unit="MiB", must="", aim="", **shared))
    gates = ("<= 2", "<= 10") if name != "attention" else ("", "")
    for what, values, gate in (
        ("memory", [m for *_, m in measured], gates[0]),
        ("speed", [s for _, s, _ in measured], gates[1]),
    ):
        middle = sorted(values)[len(values) // 2]
        worst = 100 * max(abs(value / middle - 1) for value in values)
        note = f"largest distance from the median, {given.piece:,} to {given.tokens:,} tokens"
        rows.append(Row(f"{name} {what} is flat within", worst, unit="%", must=gate, aim="", note=note, **shared))
    return rows


if __name__ == "__main__":
    main()
