"""What a file holds, told by its first bytes: how it is packed, how its text is encoded, and which format it is.

A name is only a hint: archives end in .fa, tables in .txt, and Excel writes UTF-16.
"""

import bz2
import codecs
import gzip
import lzma
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lightning.pytorch.utilities import rank_zero_warn

from app.reading import reading
from domains.genomics.bases import NUCLEOTIDES

HEAD = 1 << 16  # unpacked bytes that are looked at
PACKED: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
PACKINGS = {".gz", ".bgz", ".bz2", ".xz"}  # endings of packed files
ENDINGS = {
    "table": (".csv", ".tsv", ".tab"),
    "parquet": (".parquet",),
    "fasta": (".fa", ".fasta", ".fna", ".ffn", ".fas", ".txt", ""),
    "fastq": (".fq", ".fastq"),
    "genbank": (".gb", ".gbk", ".genbank", ".gbff"),
    "bed": (".bed", ".narrowpeak", ".broadpeak"),
    "vcf": (".vcf",),
    "gff": (".gff", ".gff3", ".gtf"),
}
KINDS = {ending: kind for kind, endings in ENDINGS.items() for ending in endings}
SEPARATORS = ",\t;"
COMMENT = re.compile(r"# |##|sep=.?$")  # a line above a table: somebody's words, or Excel's own
# A line of a BED file that is no interval; a contig may be called track1, or track, which a number follows then.
NOTE = re.compile(r"#|(track|browser)(\s+[a-z]|\s*$)")
GFF = re.compile(r"[^\t]+\t[^\t]*\t[^\t]+\t[0-9]+\t[0-9]+\t[^\t]*\t[-+.?]\t")  # start, end and strand in 4, 5 and 7
BASES = re.compile(rf"[{NUCLEOTIDES.decode()}]+")
INDEXES = {".fai", ".gzi", ".tbi", ".csi", ".dict"}  # endings of what programs lay beside the files that they read
OTHER_FILES = {  # first bytes of what is no sequence file, and what it is
    b"PK\x03\x04": ("an Excel file or a zip archive", "export it as csv, or unpack it"),
    b"PK\x05\x06": ("an empty zip archive", "pack it again"),
    b"\xd0\xcf\x11\xe0": ("an Excel file", "export it as csv"),
    b"\x1aA'C": ("a 2bit genome", "convert it with twoBitToFa"),
    b"C'A\x1a": ("a 2bit genome", "convert it with twoBitToFa"),
    b"BAM\x01": ("a BAM file", "convert it with samtools fastq"),
    b"BCF": ("a BCF file", "convert it with bcftools view"),
    b"CRAM": ("a CRAM file", "convert it with samtools fastq"),
    b"(\xb5/\xfd": ("packed with zstd", "unpack it with `zstd -d`"),
}


class _Latin:
    """Reads bytes that are no UTF-8 as Latin-1, the other encoding that files of names are found in, and counts."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeDecodeError):
            raise error
        self.bytes += error.end - error.start
        return error.object[error.start : error.end].decode("latin-1"), error.end


LATIN = _Latin()
codecs.register_error("latin-1-else", LATIN)


@dataclass(frozen=True)
class Source:
    """A file and what its first bytes say.

    Args:
        path: the file.
        opener: opens it unpacked.
        kind: `table`, `parquet`, `fasta`, `fastq`, `genbank`, `bed`, `vcf` or `gff`.
        encoding: of its text.
        separator: of a table's columns.
    """

    path: Path
    opener: Callable
    kind: str
    encoding: str
    separator: str

    @contextmanager
    def text(self) -> Iterator[IO[str]]:
        """The file as text; a byte order mark is not part of it."""
        before = LATIN.bytes
        with self.opener(self.path, "rt", encoding=self.encoding, errors="latin-1-else") as file:
            yield file
        if count := LATIN.bytes - before:
            name = self.encoding.removesuffix("-sig").upper()
            rank_zero_warn(f"{self.path}: {count} bytes are not {name}, and read as Latin-1")

    def differs(self) -> str:
        """How the content differs from what the name says, in words; empty where it does not."""
        named = KINDS.get(file_type(self.path))
        if self.kind == named or named == self.kind.replace("parquet", "table"):
            return ""
        parted = {",": ", parted by commas", ";": ", parted by semicolons", "\t": ", parted by tabs"}
        return f"is read as {self.kind}{parted[self.separator] if self.kind == 'table' else ''}, as it looks like one"


def file_type(path: Path) -> str:
    """The suffix that says what a file holds, in lower case: `.fa` of `x.fa.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKINGS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def stem(path: Path) -> str:
    """Name of a file without folders, packing and type: `x` of `a/x.fa.gz`."""
    name = path.name
    for suffix in (path.suffix if path.suffix.lower() in PACKINGS else "", file_type(path)):
        name = name[: len(name) - len(suffix)] if suffix and name.lower().endswith(suffix.lower()) else name
    return name


def inspect(path: Path) -> Source:
    """Look at a file's first bytes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is packed and damaged, or of a kind that nothing here reads.
    """
    ending = file_type(path)
    with reading(path, "a whole packed file", "copy or download it again") as at:
        with path.open("rb") as file:
            magic = file.read(8)
        opener = next((opener for start, opener in PACKED.items() if magic.startswith(start)), open)
        with opener(path, "rb") as file:
            head = file.read(HEAD)
        for start, (what, cure) in OTHER_FILES.items():
            if head.startswith(start):
                raise at.error(f"is {what}", cure)
        if opener is not open and any(head.startswith(start) for start in PACKED):
            raise at.error("is packed twice", "unpack it once, for example with `zcat`")
        if head[257:262] == b"ustar":
            raise at.error("is a tar archive", "unpack it with `tar xf`")
        if head.startswith(b"PAR1"):
            return Source(path, open, "parquet", "", "")
        encoding = _encoding(head)
        text = head.decode(encoding, "ignore")
        if (kind := _kind(text, KINDS.get(ending))) is None:
            known = ", ".join(sorted(ending for ending in KINDS if ending))
            raise at.error(f"files that end in {ending} are unknown", f"known are {known}, also packed")
    return Source(path, opener, kind, encoding, _separator(text, ending))


def files_in(folder: Path) -> list[Path]:
    """What lies in a folder and its folders, sorted, but what is hidden and the indexes of others."""
    found = (file for file in folder.rglob("*") if file.is_file() and file.suffix.lower() not in INDEXES)
    return sorted(file for file in found if not any(name.startswith(".") for name in file.relative_to(folder).parts))


def _encoding(head: bytes) -> str:
    """UTF-8 unless a byte order mark or many zero bytes tell of UTF-16, or a mark of UTF-32."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # the former begins as UTF-16 does
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = [head[start::2].count(0) / max(len(head) // 2, 1) for start in (0, 1)]
    if max(zeros) > 0.9 and min(zeros) < 0.1:
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return "utf-8-sig"


def _kind(text: str, named: str | None) -> str | None:
    """What the text is, or `named`, by the file's ending, where it does not say; None: by neither."""
    if named in ("vcf", "gff") or text.startswith("##fileformat=VCF"):
        return "vcf" if text.startswith("##fileformat=VCF") else named
    lines = [line for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not (NOTE.match(line) or line.startswith(";"))]
    found, below = [*told[:2], "", ""][:2]
    if found.startswith(">"):
        return "fasta"
    if found.startswith("@"):
        return "fastq" if any(line.startswith("+") for line in lines[2:]) else named
    if re.match(r"LOCUS\s", found):
        return "genbank"
    if named != "table" and re.match(r"\S+\t[0-9]+\t[0-9]+(\t|\s*$)", found):
        return "bed"
    if named != "bed" and GFF.match(found):
        return "gff"
    if named in ("bed", None):  # in a file of an unknown kind a comma says little
        return named
    # a word above DNA is the name of a column, the only one
    word = found.strip().isalpha() and not BASES.fullmatch(found.strip()) and BASES.fullmatch(below.strip())
    return "table" if word or any(separator in found for separator in SEPARATORS) else named


def _separator(text: str, ending: str) -> str:
    """What stands between the names of a table's columns: a tab, which no name holds, else the most frequent."""
    first = next((line for line in text.splitlines() if line.strip() and not COMMENT.match(line)), "")
    if "\t" in first or (ending in (".tsv", ".tab") and not any(separator in first for separator in SEPARATORS)):
        return "\t"
    return ";" if first.count(";") > first.count(",") else ","
