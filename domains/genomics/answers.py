"""The verbs of a trained classifier: it answers, embeds or explains the sequences of a file."""

import argparse
from itertools import islice

import torch
from matplotlib.figure import Figure
from pandas import DataFrame
from torch.utils.tensorboard import SummaryWriter

from app.errors import UserError, user_errors
from app.files import make_folder
from app.pictures import save_figure
from app.runs import run_folder
from app.tables import TableWriter
from domains.genomics.bases import Repairs, Sequences, decode
from domains.genomics.explain import gradient, importance_table, mutagenesis
from domains.genomics.figures import importance_figure
from domains.genomics.names import word_of
from domains.genomics.progress import bar
from domains.genomics.records import Passed, Records
from domains.genomics.stream import Reader, bases_of, described
from domains.genomics.trained import opened


@user_errors()
def answer(arguments: argparse.Namespace) -> None:
    """Classes or embeddings of every sequence; bad ones are passed over, and told of at the end."""
    reader, read = opened(arguments)
    arguments.output = arguments.output or run_folder(arguments.ckpt) / "predictions.csv"
    writer, repairs, passed, rows = TableWriter(arguments.output), Repairs(), Passed(), 0
    print(reader.memory(arguments.piece))
    try:
        total = bases_of(arguments.input, read.layout, read.max_length)
        with bar(arguments.verb, total) as reader.tick:
            for records in read.stream(arguments.input, arguments.piece, passed):
                repairs.add(records.repairs)
                writer.write(answered(reader, records, arguments.verb))
                rows += len(records)
        if not rows:
            raise UserError(f"{arguments.input}: no sequence could be read; {passed}")
    except BaseException:
        if rows:
            print(f"{writer.part}: the {rows:,} sequences before the error")
        raise
    writer.close()
    print(f"{arguments.output}: {rows:,} sequences")
    for line in filter(None, (str(repairs), str(passed))):
        print(f"warning: {line}")


def answered(reader: Reader, records: Records, verb: str) -> DataFrame:
    """A row for each sequence: what it is, and the answer (`predict`) or the embedding (`embed`)."""
    output, vectors = reader.read(records.sequences)
    if verb == "predict":
        columns = reader.head.task.columns(output)
    else:
        columns = {f"e{i}": values for i, values in enumerate(vectors.float().cpu().numpy().T)}
    return DataFrame({**described(records), **columns})


@user_errors()
def explain(arguments: argparse.Namespace) -> None:
    """Table, pictures and TensorBoard events of the sequences asked for."""
    reader, read = opened(arguments)
    wanted = {name.strip() for name in arguments.ids.split(",") if name.strip()} if arguments.ids else None
    if arguments.label is not None and arguments.label not in reader.head.classes:
        raise UserError(
            f"--label {arguments.label!r} is no class of the model; choose {', '.join(reader.head.classes)}"
        )
    make_folder(arguments.output)
    table, board = TableWriter(arguments.output / "importance.tsv"), SummaryWriter(str(arguments.output))
    passed, words = Passed(), set()
    found = (
        (name, records.sequences[row])
        for records in read.stream(arguments.input, arguments.piece, passed)
        for row, name in enumerate(records.ids)
        if wanted is None or name in wanted
    )
    for name, bases in islice(found, arguments.count if wanted is None else len(wanted)):  # a file may go on for long
        figure, rows = explained(reader, name, bases, arguments.label, arguments.region)
        table.write(rows)
        save_figure(arguments.output / f"{word_of(name, words)}.png", figure)
        board.add_figure(f"importance/{name}", figure)
        if wanted is not None:
            wanted.discard(name)
    table.close()
    board.close()
    told = f"; {passed}" if passed.counts else ""
    if wanted:
        raise UserError(f"{arguments.input}: no sequence {sorted(wanted)[0]!r} could be read; check --ids{told}")
    if not words:
        raise UserError(f"{arguments.input}: no sequence could be read{told}")
    print(f"{arguments.output}: importance.tsv, a PNG for each sequence, and the same for TensorBoard")
    if passed.counts:
        print(f"warning: {passed}")


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
    with bar(name, (3 * (last - first) + 1) * len(bases)) as reader.tick:
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
