"""Use a trained model: `python -m domains.genomics {predict,embed,explain} CHECKPOINT SEQUENCES OUTPUT`."""

import argparse
import re
import sys
from itertools import islice
from pathlib import Path

import torch
from lightning.pytorch.utilities import disable_possible_user_warnings
from matplotlib.figure import Figure
from pandas import DataFrame

from app.errors import UserError
from app.pictures import save_figure
from app.tables import TableWriter
from domains.genomics.bases import Repairs, Sequences, decode
from domains.genomics.explain import gradient, importance_table, mutagenesis
from domains.genomics.figures import importance_figure
from domains.genomics.progress import bar
from domains.genomics.records import Passed
from domains.genomics.stream import Reader, bases_of, described
from domains.genomics.trained import Preprocessing, load


def answer(given: argparse.Namespace, reader: Reader, read: Preprocessing) -> None:
    """Classes or embeddings of every sequence; bad ones are passed over, and told of at the end."""
    writer, repairs, passed, rows = TableWriter(given.output), Repairs(), Passed(), 0
    print(reader.memory(given.piece))
    try:
        total = bases_of(given.sequences, read.layout, read.max_length)
        with bar(given.command, total) as reader.tick:
            for records in read.stream(given.sequences, given.piece, passed):
                repairs.add(records.repairs)
                output, vectors = reader.read(records.sequences)
                if given.command == "predict":
                    columns = reader.head.task.columns(output)
                else:
                    columns = {f"e{i}": values for i, values in enumerate(vectors.float().cpu().numpy().T)}
                writer.write(DataFrame({**described(records), **columns}))
                rows += len(records)
        if not rows:
            raise UserError(f"{given.sequences}: no sequence could be read; {passed}")
    except BaseException:
        if rows:
            print(f"{writer.part}: the {rows:,} sequences before the error")
        raise
    writer.close()
    print(f"{given.output}: {rows:,} sequences")
    for line in filter(None, (str(repairs), str(passed))):
        print(f"warning: {line}")


def explain(given: argparse.Namespace, reader: Reader, read: Preprocessing) -> None:
    """Table, pictures and TensorBoard events of the sequences asked for."""
    from torch.utils.tensorboard import SummaryWriter

    wanted = set(given.ids.split(",")) if given.ids else None
    if given.label is not None and given.label not in reader.head.classes:
        raise UserError(f"--label {given.label!r} is no class of the model; choose {', '.join(reader.head.classes)}")
    given.output.mkdir(parents=True, exist_ok=True)
    table, board = TableWriter(given.output / "importance.tsv"), SummaryWriter(str(given.output))
    found = (
        (name, records.sequences[row])
        for records in read.stream(given.sequences, given.piece, Passed())
        for row, name in enumerate(records.ids)
        if wanted is None or name in wanted
    )
    for name, bases in islice(found, given.count if wanted is None else len(wanted)):  # a file may go on for long
        figure, rows = explained(reader, name, bases, given.label, given.region)
        table.write(rows)
        save_figure(given.output / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.png", figure)
        board.add_figure(f"importance/{name}", figure)
        if wanted is not None:
            wanted.discard(name)
    table.close()
    board.close()
    if wanted:
        raise UserError(f"{given.sequences}: holds no sequence {sorted(wanted)[0]!r}; check --ids")
    print(f"{given.output}: importance.tsv, a PNG for each sequence, and the same for TensorBoard")


def explained(
    reader: Reader, name: str, bases: torch.Tensor, label: str | None, region: tuple[int, int] | None
) -> tuple[Figure, DataFrame]:
    """Picture and table of one sequence, for the class asked for or else the predicted one."""
    output, _ = reader.read(Sequences(bases, torch.tensor([0, len(bases)])))
    target = int(output.argmax()) if label is None else reader.head.classes.index(label)
    first, last = (0, len(bases)) if region is None else (region[0] - 1, min(region[1], len(bases)))
    if not 0 <= first < last:
        raise UserError(f"--region {region[0]}-{region[1]} does not lie in {name!r} of {len(bases)} bases")
    print(f"{name}: {reader.head.classes[target]}, {3 * (last - first):,} variants of {len(bases):,} bases")
    with bar(name, 3 * (last - first) * len(bases)) as reader.tick:
        effects = mutagenesis(reader, bases, target, first, last)
    slopes = gradient(reader, bases, target)[first:last]
    answers = ", ".join(f"{key} {_short(value[0])}" for key, value in reader.head.task.columns(output).items())
    title = f"{name}: {reader.head.classes[target]} ({answers[:80]})"
    letters = decode(bases[first:last])
    return (
        importance_figure(effects, slopes, letters, title, first + 1),
        importance_table(name, bases, first, effects, slopes).assign(label=reader.head.classes[target]),
    )


def _short(value: object) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"


def _region(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no range such as 101-250")
    return int(match[1]), int(match[2])


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bases; give 1 or more")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share between 0 and 1")
    return value


OVERRIDES = {  # of what a checkpoint says of its training
    "max_length": "read only so many first bases of each",
    "max_n": "pass over sequences of a larger share of N",
    "sequence_col": "column of a table",
    "id_col": "column of a table",
    "reference": "FASTA that a BED file refers to",
    "width": "bases around the centre of a BED interval",
}
KINDS = {"max_length": _positive, "max_n": _share, "width": _positive}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m domains.genomics", description=__doc__)
    commands = found.add_subparsers(dest="command", required=True)
    for name, text in (
        ("predict", "write id, length, n_fraction, truncated, class and p_CLASS of every sequence"),
        ("embed", "write the mean hidden state of every sequence"),
        ("explain", "write and draw which bases a class depends on"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("checkpoint", type=Path, help="best.ckpt of a run")
        command.add_argument("sequences", type=Path, help="FASTA, FASTQ, GenBank, BED or a table; plain or packed")
        kind = "a new folder" if name == "explain" else "a .tsv, .csv or .parquet file"
        command.add_argument("output", type=Path, help=kind)
        piece = 16384 if torch.cuda.is_available() else 4096  # more do not stay in a processor's cache
        command.add_argument("--piece", type=_positive, default=piece, help="bases at a time (%(default)s)")
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
        for key, what in OVERRIDES.items():
            command.add_argument(f"--{key}", type=KINDS.get(key, str), help=f"{what}; else as in training")
        if name == "explain":
            command.add_argument("--ids", help="sequences, separated by commas; else the first ones")
            command.add_argument("--count", type=int, default=4, help="how many first ones (%(default)s)")
            command.add_argument("--label", help="class to explain; else the predicted one")
            command.add_argument("--region", type=_region, help="places to change, such as 101-250; else all")
    return found


def main(args: list[str] | None = None) -> int:
    """Run a command; returns 0, or 2 after a one-line error."""
    given = parser().parse_args(args)
    disable_possible_user_warnings()
    try:
        reader = Reader(load(given.checkpoint), torch.device(given.device), given.piece)
        trained = Preprocessing.of(given.checkpoint)
        read = trained.changed(**{name: getattr(given, name) for name in OVERRIDES})
        print("\n".join(read.lines(trained)))
        explain(given, reader, read) if given.command == "explain" else answer(given, reader, read)
    except (UserError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
