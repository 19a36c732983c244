"""What variants do to a model's answers."""

import argparse
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import torch
from pandas import DataFrame

from app.errors import UserError, user_errors
from app.tables import TableWriter
from domains.genomics.bases import N, Sequences
from domains.genomics.bed import contigs_of, minus, renaming
from domains.genomics.growing import growing
from domains.genomics.names import word_of
from domains.genomics.progress import bar
from domains.genomics.records import Passed
from domains.genomics.strands import Strands
from domains.genomics.stream import Reader
from domains.genomics.trained import opened
from domains.genomics.variants import INFO, NAMES, Line, Variant, read_vcf

LINES = 2000  # lines of a VCF file that are answered together, at most


@user_errors()
def effects(arguments: argparse.Namespace) -> None:
    """Log-odds of the reference and of the alternative allele of every variant, and their difference."""
    if arguments.vcf and arguments.vcf.suffix != ".vcf":
        raise UserError(f"--vcf {arguments.vcf}: is written as plain text; let its name end in .vcf")
    reader, read = opened(arguments)
    if read.layout.reference is None:
        raise UserError("the genome of the variants is missing; give --reference FASTA")
    reference, width = Path(read.layout.reference), read.window(arguments.width)
    labels = [arguments.label] if arguments.label else reader.head.classes
    if arguments.label and arguments.label not in reader.head.classes:
        raise UserError(
            f"--label {arguments.label!r} is no class of the model; choose {', '.join(reader.head.classes)}"
        )
    contigs = contigs_of(reference)
    # The whole file is read once before the model is asked: a line that does not fit ends no run of hours.
    passed = Passed("alleles")
    lines = read_vcf(arguments.input, contigs, reference, passed)
    total = sum(len(line.variants) for line in lines)
    if not total:
        told = f": {passed}" if passed.counts else ""
        raise UserError(
            f"{arguments.input}: holds no variant whose alleles are letters{told}; check that it is the right file"
        )
    strands = _annotated(arguments.annotation, contigs, reference) if arguments.annotation else None
    asked = Asked(reader, contigs, strands, width, read.max_n, labels)
    print(f"{arguments.input}: {total:,} alternative alleles, in windows of {width:,} bases of {reference}")
    table = TableWriter(arguments.output)
    with ExitStack() as stack:
        vcf = stack.enter_context(growing(arguments.vcf)) if arguments.vcf else None
        reader.tick = stack.enter_context(bar("effects", 2 * width * total))
        lines = read_vcf(arguments.input, contigs, reference, asked.passed)
        size = max(1, min(LINES, arguments.piece // (2 * width)))
        while group := list(islice(lines, size)):
            found = asked.answer([variant for line in group for variant in line.variants])
            if len(found):
                table.write(found)
            if vcf:
                annotate(vcf, group, found, labels)
        if not asked.rows:
            raise UserError(f"{arguments.input}: no variant could be read; {asked.passed}")
    table.close()
    print(f"{arguments.output}: {asked.rows:,} variants")
    if arguments.vcf:
        print(f"{arguments.vcf}: the same as INFO")
    for line in filter(None, (str(asked.passed), asked.both())):
        print(f"warning: {line}")


def _annotated(path: Path, contigs: dict[str, str], reference: Path) -> Strands:
    """The strands of an annotation, which must be of this genome: else all would be read on plus."""
    strands = Strands(path)
    names = list(strands.features)
    if not contigs.keys() & names:
        told = f"none of its contigs ({', '.join(names[:3])}, ...) is in {reference}"
        raise UserError(f"{path}: {told}; {renaming(names, contigs) or 'take the annotation of this genome'}")
    return strands


class Asked:
    """A model that is asked about variants.

    Args:
        reader: the model.
        contigs: letters of the genome's contigs.
        strands: by which annotation a place is read on the minus strand; None reads plus everywhere.
        width: bases of a window.
        max_n: largest share of N in one.
        labels: classes, labels or values that are asked for.
    """

    def __init__(
        self, reader: Reader, contigs: dict[str, str], strands: Strands | None, width: int, max_n: float,
        labels: list[str],
    ) -> None:  # fmt: skip
        self.reader = reader
        self.contigs = contigs
        self.strands = strands
        self.width = width
        self.max_n = max_n
        self.labels = labels
        self.passed = Passed("alleles")
        self.rows = 0
        self.ambiguous = 0

    def both(self) -> str:
        """How many variants lie under features of both strands, in words; empty where none does."""
        told = "variants lie in features of both strands, and are read on that of the first one in the annotation"
        return f"{self.ambiguous:,} {told}" if self.ambiguous else ""

    def answer(self, variants: list[Variant]) -> DataFrame:
        """A row for each variant that can be read: where it lies, and ref_, alt_ and delta_LABEL."""
        rows = []
        texts = []
        for variant in variants:
            found = variant.windows(self.contigs[variant.contig], self.width)
            place = f"{variant.contig}:{variant.position}"
            if found is None:
                self.passed.add("longer than the window", place)
                continue
            shares = (Sequences.of([text]).codes == N for text in found)
            if max(float(share.float().mean()) for share in shares) > self.max_n:
                self.passed.add(f"in windows with more than {self.max_n:.0%} N", place)
                continue
            strand, feature = self._strand(variant)
            texts += [minus(text) if strand == "-" else text for text in found]
            rows.append(variant.where() | {"strand": strand, "feature": feature})
        if not rows:
            return DataFrame()
        self.rows += len(rows)
        odds = strengths(self.reader, texts, self.labels).reshape(len(rows), 2, -1)
        table = DataFrame(rows)
        for column, label in enumerate(self.labels):
            table[f"ref_{label}"] = odds[:, 0, column]
            table[f"alt_{label}"] = odds[:, 1, column]
            table[f"delta_{label}"] = odds[:, 1, column] - odds[:, 0, column]
        return table

    def _strand(self, variant: Variant) -> tuple[str, str]:
        found = self.strands.at(variant.contig, variant.position - 1) if self.strands else []
        self.ambiguous += len({strand for strand, _ in found}) > 1
        return found[0] if found else ("+", "")


def strengths(reader: Reader, texts: list[bytes], labels: list[str]) -> np.ndarray:
    """Log-odds of classes or labels, or values, float32 [texts, labels]; equal texts are read once."""
    distinct = list(dict.fromkeys(texts))
    size = max(1, reader.tokens * reader.head.stem.stride // len(distinct[0]))
    groups = [distinct[start : start + size] for start in range(0, len(distinct), size)]
    output = torch.cat([reader.read(Sequences.of(group))[0].float().cpu() for group in groups])
    task = reader.head.task
    odds = torch.stack([task.strength(output, task.names.index(label)) for label in labels], 1)
    number = {text: row for row, text in enumerate(distinct)}
    return odds.numpy()[[number[text] for text in texts]]


def annotate(file: IO[str], lines: list[Line], found: DataFrame, labels: list[str]) -> None:
    """Write the lines with three values of each label for each alternative allele in INFO, `.` where there is none.

    What stands there under the same keys, of an earlier run, is left out.
    """
    keys = list(_keys(labels))
    ours = {key for key, _, _ in keys}
    rows = iter(found.to_dict("records"))
    row = next(rows, None)
    for line in lines:
        if line.cells[0].startswith("#CHROM"):
            file.writelines(_headings(keys))
            names = line.cells[0].split("\t")
            line = replace(line, cells=[*names, *NAMES[len(names) :]])
        if line.cells[0].startswith("##INFO=<ID=") and re.split("[=,]", line.cells[0])[2] in ours:
            continue
        if not line.alleles:
            print("\t".join(line.cells), file=file)
            continue
        values = [{} for _ in range(line.alleles)]
        for variant in line.variants:
            # alleles of one place may stand on lines of their own, and not all of them could be read
            if row and all(row[column] == value for column, value in variant.where().items()):
                values[variant.allele] = row
                row = next(rows, None)
        cells = line.cells + ["."] * (INFO + 1 - len(line.cells))
        told = ";".join(
            f"{key}={','.join(f'{value[column]:.4f}' if value else '.' for value in values)}" for key, column, _ in keys
        )
        others = [
            part for part in cells[INFO].split(";") if part not in (".", "") and part.partition("=")[0] not in ours
        ]
        cells[INFO] = ";".join([*others, told])
        print("\t".join(cells), file=file)


def _keys(labels: list[str]) -> Iterator[tuple[str, str, str]]:
    """INFO key, column of the table and description of every value."""
    taken: set[str] = set()
    for label in labels:
        word = word_of(label, taken, "._")
        yield f"REF_{word}", f"ref_{label}", f"of {label} with the reference allele"
        yield f"ALT_{word}", f"alt_{label}", f"of {label} with the alternative allele"
        yield f"DELTA_{word}", f"delta_{label}", f"of {label}, alternative less reference allele"


def _headings(keys: list[tuple[str, str, str]]) -> list[str]:
    return [
        f'##INFO=<ID={key},Number=A,Type=Float,Description="Log-odds (or value) {what}">\n' for key, _, what in keys
    ]
