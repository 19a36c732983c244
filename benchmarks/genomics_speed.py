"""How fast is DNA read? `python -m benchmarks.genomics_speed`: the model of a config, untrained, on this machine.

What a model costs does not depend on its weights. On a processor one thread reads, and its own seconds are counted, so
that what else runs there matters little; a GPU is measured by the clock, everything from bases in main memory to
answers in main memory. `from a file` is what `predict` does: a FASTA of records of 1,000 bases in, a table out.
"""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import torch
from pandas import DataFrame

from app.module import TitansModule
from app.tables import TableWriter
from app.versions import device_name
from benchmarks.shared.models import backbone_of
from benchmarks.shared.rows import Row, command_line, spread, write
from benchmarks.shared.runs import CONF, resolved
from domains.genomics import SequenceHead
from domains.genomics.bases import Sequences, decode
from domains.genomics.readers import Layout
from domains.genomics.stream import PIECES, Reader, described, stream_records

RECORD = 1_000_000  # bases of a long record
SHORT = 1000  # bases of a short one


def untrained(options: list[str]) -> TitansModule:
    """The classifier of two classes that these options of `fit` describe."""
    model = resolved(options)["model"]
    backbone = backbone_of(model["backbone"])
    head = model["head"]["init_args"] | {"dim": backbone.dim, "output_size": 2, "task": "classes"}
    torch.manual_seed(0)
    return TitansModule(SequenceHead(**head), backbone)


def sequences(count: int, length: int) -> Sequences:
    """Random ones."""
    codes = torch.randint(4, (count * length,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Sequences(codes, torch.arange(count + 1) * length)


def seconds(run: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Of each of some runs behind a first: of this process on a processor, of the clock on a GPU."""
    clock = process_time if device.type == "cpu" else perf_counter
    run()
    found = []
    for _ in range(repeats):
        start = clock()
        run()
        found.append(clock() - start)
    return found


def measure(reader: Reader, bases: int, record: int, repeats: int, shared: dict[str, Any]) -> list[Row]:
    """Rows of one reader: sequences of 251 and 1,000 bases, one long record, and a file."""
    gpu = reader.device.type == "cuda"
    unit = "bases/s" if gpu else "bases/CPU-s"
    fast = (">= 5e6", ">= 2e7") if gpu else (">= 20000", "")
    rows = []

    def row(metric: str, values: list[float], unit: str, bounds: tuple[str, str]) -> None:
        rows.append(Row(metric, median(values), spread(values), unit, *bounds, seeds=[0], **shared))
        print(f"{metric}: {rows[-1].value:,.4g} {unit}", flush=True)

    def read(given: Sequences) -> list[float]:
        if gpu:
            torch.cuda.reset_peak_memory_stats(reader.device)
        return seconds(lambda: reader.read(given)[0].cpu(), reader.device, repeats)  # `cpu` waits for the device

    def memory(of: str) -> None:
        if gpu:
            row(f"{of}: peak memory", [torch.cuda.max_memory_allocated(reader.device) / 2**20], "MiB", ("", ""))

    for length in (251, SHORT):
        of, count = f"sequences of {length:,} bases", bases // length
        taken = read(sequences(count, length))
        row(of, [count * length / one for one in taken], unit, fast)
        memory(of)
    of = f"one record of {record:,} bases"
    taken = read(sequences(1, record))
    row(of, [record / one for one in taken], unit, ("", "") if gpu else fast)
    memory(of)
    if gpu:
        row(f"{of}: time", taken, "s", ("<= 2", ""))
    with TemporaryDirectory() as folder:
        path, count = Path(folder, "in.fa"), 4 * bases // SHORT
        texts = decode(sequences(count, SHORT).codes)
        path.write_text("".join(f">s{i}\n{texts[i * SHORT : (i + 1) * SHORT]}\n" for i in range(count)))

        def answer() -> None:
            table = TableWriter(Path(folder, "out.tsv"))
            for records in stream_records(path, Layout(), bases):
                output = reader.read(records.sequences)[0]
                table.write(DataFrame({**described(records), **reader.head.task.columns(output)}))
            table.close()

        taken = seconds(answer, reader.device, repeats)
        row(f"from a file, sequences of {SHORT:,} bases", [count * SHORT / one for one in taken], unit, ("", ""))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.genomics_speed", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--config", type=Path, default=CONF / "genomics_fasta.yaml", help="of `fit`, as are further options"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--piece", type=int, help="bases of a batch and of a piece; else as `predict` has them")
    parser.add_argument("--record", type=int, help="bases of the long record (1,000,000 on a GPU, else 65,536)")
    parser.add_argument("--repeats", type=int, default=5, help="of every measurement (%(default)s)")
    parser.add_argument("--name", default="genomics_speed", help="of the results (%(default)s)")
    given, options = parser.parse_known_args()
    torch.set_num_threads(1)
    device = torch.device(given.device)
    piece = given.piece or PIECES[device.type]
    module = untrained(["--config", str(given.config), *options])
    command = command_line("genomics_speed")
    note = f"{shlex.join([given.config.name, *options])}, pieces of {piece:,} bases"
    shared = {"device": device_name(device), "command": command, "note": note}
    record = given.record or (RECORD if device.type == "cuda" else RECORD // 16)
    write("genomics_speed", given.name, measure(Reader(module, device, piece), piece, record, given.repeats, shared))


if __name__ == "__main__":
    main()
