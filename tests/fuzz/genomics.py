"""Files of sequences: FASTA, FASTQ, GenBank, BED, csv and parquet with labels."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
from hypothesis import strategies as st
from pyarrow import parquet

from domains.genomics.bases import decode
from domains.genomics.readers import Layout, read_records
from domains.genomics.stream import stream_records
from tests.fuzz.damage import BYTES, HOSTILE, LINES, Draw, cells, damaged
from tests.fuzz.run import Format, OneOf, any_of, readings, same

DNA = ("ACGTTGCAACGTNACGGT", "TTGACCAGTAGG", "GGCATTACGGATTACA")
FASTA = "".join(f">s{i}|{'ab'[i % 2]} some words\n{text[:10]}\n{text[10:]}\n" for i, text in enumerate(DNA))
FASTQ = "".join(f"@s{i} 1:N:0\n{text}\n+\n{'I' * len(text)}\n" for i, text in enumerate(DNA))
GENBANK = "".join(
    f"LOCUS       S{i}{len(text):>27} bp    DNA     linear   UNK 01-JAN-1980\n"
    f"DEFINITION  made.\nACCESSION   S{i}\nVERSION     S{i}.1\nKEYWORDS    .\n"
    "SOURCE      .\n  ORGANISM  Homo sapiens\n            .\nFEATURES             Location/Qualifiers\n"
    f"     gene            1..{len(text)}\nORIGIN\n        1 {text[:10].lower()} {text[10:].lower()}\n//\n"
    for i, text in enumerate(DNA)
)
BED = "chr1\t2\t9\ta\t0\t+\nchr1\t10\t14\tb\t0\t-\nchr2\t0\t5\ta\t0\t.\n"
REFERENCE = {"chr1": DNA[0], "chr2": DNA[1]}
CSV = "id,sequence,label,split\n" + "".join(f"s{i},{text},{'ab'[i % 2]},train\n" for i, text in enumerate(DNA))
WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


def letters(text: str) -> str:
    """As the model reads them: upper case, U as T, ambiguous ones as N."""
    text = text.translate({ord(c): None for c in " \t\r\n"}).upper().replace("U", "T")
    if not text or re.search("[^ACGTNRYSWKMBDHV]", text):
        raise ValueError("no DNA")
    return re.sub("[^ACGT]", "N", text)


def read(path: Path, layout: Layout, labelled: bool = True) -> Any:
    """[id, letters, label, split] of each record; reading in a stream must find the same records."""
    records = read_records(path, layout, labelled)
    found = [
        [str(name), decode(records.sequences[i]), *_of(records.labels, i), *_of(records.splits, i)]
        for i, name in enumerate(records.ids)
    ]
    streamed = [
        [str(name), decode(some.sequences[i])] for some in stream_records(path, layout, 40)
        for i, name in enumerate(some.ids)
    ]  # fmt: skip
    if not same([row[:2] for row in found], streamed):
        raise AssertionError(f"read at once: {found}; in a stream: {streamed}")
    return found


def _of(column: Any, row: int) -> list[Any]:
    return [] if column is None else [column[row] if column[row] is None else str(column[row]).strip()]


def once(rows: list[list[Any]]) -> list[Any]:
    """The only answer, unless a name is empty or stands twice."""
    names = [row[0][0] if isinstance(row[0], OneOf) else row[0] for row in rows]
    if "" in names or len({*names}) < len(names) or not names:
        raise ValueError("a name is missing or stands twice")
    return [rows]


def by_text(right: Callable[[str], list[Any]]) -> Callable[[bytes], list[Any]]:
    """The answers of a reader of text to bytes."""
    return lambda data: any_of(right, readings(data))


def fasta(text: str) -> list[Any]:
    text = re.sub(r"^[#;].*\n?", "", text, flags=re.MULTILINE)  # remarks
    before, *records = re.split(r"^>", text, flags=re.MULTILINE)
    if before.strip():
        raise ValueError("something before the first header")
    rows = []
    for record in records:
        header, _, rest = record.partition("\n")
        labels = [field.strip() for field in header.strip().split("|")[1:2]]
        labels += [label.split()[0] for label in labels if label] + header.replace("|", " ").split()[1:2]
        if not header.split() or not any(labels):
            raise ValueError("no name or no class")
        names = OneOf([header.split()[0], re.split("[ \t]", header)[0]])  # other white space may part words or not
        rows.append([names, letters(rest), OneOf(labels)])
    return once(rows)


def fastq(text: str) -> list[Any]:
    lines = [line.rstrip() for line in text.split("\n") if line.strip()]
    rows = []
    while lines:
        header = lines.pop(0)
        plus = next(number for number, line in enumerate(lines) if line[:1] == "+")
        bases, named, lines = "".join(lines[:plus]), lines[plus][1:], lines[plus + 1 :]
        quality = ""
        while len(quality) < len(bases):  # both may be cut into lines
            quality += lines.pop(0)
        if header[:1] != "@" or len(bases) != len(quality) or named not in ("", header[1:]):
            raise ValueError("no FASTQ")
        rows.append([header[1:].split()[0], letters(bases), "fuzzed"])
    return once(rows)


def genbank(text: str) -> list[Any]:
    rows = []
    *records, rest = re.split(r"^//[ ]*\n?", text, flags=re.MULTILINE)
    if rest.strip():
        raise ValueError("the last record has no end")
    for record in records:
        if not record.strip():
            continue
        head, *_, origin = re.split(r"^ORIGIN.*\n", record, flags=re.MULTILINE)
        size = int(re.search(r"^LOCUS\s+\S+\s+(\d+) bp", record, re.MULTILINE)[1])
        names = [re.findall(rf"^{key}[^\S\n]+(\S+)", head, re.MULTILINE) for key in ("VERSION", "ACCESSION", "LOCUS")]
        found = letters("".join(line[10:] for line in origin.split("\n")))  # places stand in the columns before
        versions = re.findall(r"^VERSION[ ]+(.*)", head, re.MULTILINE)  # words may stand before the last, which counts
        numbers = [number for _, _, number in (line.strip().rpartition(".") for line in versions) if number.isdigit()]
        names.append(
            [f"{name}.{int(number)}" for name in sum(names, []) for number in numbers]
        )  # as Biopython joins them
        names.append([f"{name.rpartition('.')[0]}.{int(number)}" for name in names[0] for number in numbers])
        if len(found) != size:
            raise ValueError("not as many letters as its head says")
        rows.append([OneOf(sum(names, [])), found, "fuzzed"])
    return once(rows)


def bed(text: str) -> list[Any]:
    """Without ids: what names an interval is the reader's choice."""
    rows = []
    for line in text.split("\n"):
        if not line.strip() or line.startswith(("#", "track", "browser")):
            continue
        chrom, start, end, *more = (re.sub('^"(.*)"$', r"\1", cell.strip()) for cell in line.split("\t"))  # as R quotes
        if not all(re.fullmatch("-?[0-9]+", place) for place in (start, end)):
            raise ValueError("no places")
        a, b, contig = int(start), int(end), REFERENCE[chrom]
        strand = more[2].strip() if len(more) > 2 else "+"
        inside = min(b, len(contig)) - max(a, 0)
        if not a < b or inside <= 0 or 2 * inside < b - a or strand not in ("+", "-", ".", ""):
            raise ValueError("outside")
        bases = "N" * max(-a, 0) + contig[max(a, 0) : b] + "N" * max(b - len(contig), 0)
        if strand == "-":
            bases = bases[::-1].translate(str.maketrans("ACGT", "TGCA"))
        rows.append([bases, (more or [""])[0].strip()])
    if not rows:
        raise ValueError("no interval")
    return [rows]


def read_bed(path: Path) -> Any:
    reference = path.with_name("reference.fa")
    reference.write_text("".join(f">{name}\n{text}\n" for name, text in REFERENCE.items()))
    return [row[1:] for row in read(path, Layout(label_from="header", reference=str(reference)))]


def _answers(rows: list[dict[str, str]]) -> list[Any]:
    found = []
    for number, row in enumerate(rows):
        split = [WORDS[row["split"].strip().lower()]] if "split" in row else []
        if not row["label"].strip():
            raise ValueError("no class")
        found.append([row.get("id", f"row{number}").strip(), letters(row["sequence"]), row["label"].strip(), *split])
    return once(found)


def table(data: bytes) -> list[Any]:
    return any_of(_table, readings(data), (",", ";", "\t", "|"))


def _table(text: str, separator: str) -> list[Any]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows = [row for row in lines if "".join(row).strip()]
    while rows[0][0].startswith("#") and "sequence" not in rows[0]:  # a remark, and no column of that name
        rows.pop(0)
    header = [name.strip() for name in rows.pop(0)]
    if any(len(row) != len(header) for row in rows) or len({*header}) < len(header):
        raise ValueError("ragged, or a name twice")
    return _answers([dict(zip(header, row, strict=True)) for row in rows])


@st.composite
def tables(draw: Draw) -> bytes:
    """A parquet file of sequences whose columns may be of other kinds."""
    n = len(DNA)
    other = (
        pyarrow.array([None, *DNA[1:]]),
        pyarrow.array([None] * n),
        pyarrow.array([text.encode() for text in DNA]),
        pyarrow.array([b"\xff\xfe" for _ in DNA]),
        pyarrow.array(range(n)),
        pyarrow.array([float("nan"), 1.0, 1e300]),
        pyarrow.array([[text] for text in DNA]),
        pyarrow.array([{"a": text} for text in DNA]),
        pyarrow.array([True, False, True]),
        pyarrow.array(list(DNA)).dictionary_encode(),
        pyarrow.array(list(DNA), pyarrow.large_string()),
        pyarrow.array([draw(st.sampled_from(HOSTILE)).replace("\ud800", "?") for _ in range(n)]),
        pyarrow.array([2**63 + i for i in range(n)], pyarrow.uint64()),
        pyarrow.array(range(n), pyarrow.timestamp("ns")),
        pyarrow.array(["train", "test", "val"]),
    )
    columns = {"id": pyarrow.array([f"s{i}" for i in range(n)]), "sequence": pyarrow.array(list(DNA)),
               "label": pyarrow.array(["a", "b", "a"]), "split": pyarrow.array(["train"] * n)}  # fmt: skip
    for name in draw(st.lists(st.sampled_from(sorted(columns)), max_size=2)):
        columns[name] = draw(st.sampled_from(other))
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns)[: draw(st.sampled_from((n, n, n, 1, 0)))], file)
    data = file.getvalue()
    return draw(damaged(data, BYTES)) if draw(st.booleans()) else data


def from_parquet(data: bytes) -> list[Any]:
    rows = parquet.read_table(pyarrow.BufferReader(data)).to_pylist()

    def text(value: Any) -> str:
        if isinstance(value, bytes):
            return value.decode()
        if value is None or isinstance(value, dict | list):
            raise ValueError(f"no text: {value!r}")
        return str(value)

    return _answers([{name: text(value) for name, value in row.items()} for row in rows])


def header(path: Path) -> Any:
    return read(path, Layout(label_from="header"))


def file(path: Path) -> Any:
    return read(path, Layout())


FORMATS = (
    Format("dna.fa", "fuzzed.fa", damaged(FASTA.encode(), (*LINES, *BYTES)), header, by_text(fasta)),
    Format("dna.fastq", "fuzzed.fastq", damaged(FASTQ.encode(), (*LINES, *BYTES)), file, by_text(fastq)),
    Format("dna.gb", "fuzzed.gb", damaged(GENBANK.encode(), (*LINES, *BYTES)), file, by_text(genbank)),
    Format("dna.bed", "fuzzed.bed", damaged(BED.encode(), (*cells(b"\t"), *LINES, *BYTES)), read_bed, by_text(bed)),
    Format("dna.csv", "fuzzed.csv", damaged(CSV.encode(), (*cells(b","), *LINES, *BYTES)), file, table),
    Format("dna.parquet", "fuzzed.parquet", tables(), file, from_parquet),
)
