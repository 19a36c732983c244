"""The public sets of labelled DNA: where each comes from and what it must hold, and their conversion to one table."""

import csv
import gzip
import io
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from app.reading import reading
from data_prep import gue
from data_prep.files import DownloadError, data_root, download, record

ZENODO = "https://zenodo.org/records/16605299/files/{}_v0.zip?download=1"
MIRROR = (
    "https://huggingface.co/datasets/katarinagresova/Genomic_Benchmarks_{}"
    "/resolve/refs%2Fconvert%2Fparquet/default/{}/0000.parquet"
)
DEEPGENE = "https://raw.githubusercontent.com/wds-seu/DeepGene/" + gue.REVISION + "/data/GUE/{}/{}.csv"
PARTS = {"train": "train", "val": "dev", "test": "test"}  # our names, and those of GUE's files


@dataclass(frozen=True)
class PublicSet:
    """One public set.

    Args:
        rows: published number of sequences of train (and validation) and test.
        lengths: published shortest and longest sequence.
        folder: where its files lie: below GUE's own folder for a GUE task, empty for GenomicBenchmarks.
    """

    rows: tuple[int, ...]
    lengths: tuple[int, int]
    folder: str = ""


def _gue(kind: str, length: int, **rows: tuple[int, ...]) -> dict[str, PublicSet]:
    return {
        f"gue/{name}": PublicSet(count, (length, length), f"{kind}/{_folder(name)}") for name, count in rows.items()
    }


def _folder(name: str) -> str:
    """GUE's folder of a task: `0` of `tf_0`, but a promoter task's whole name."""
    return name if name.startswith("prom") else name.split("_", 1)[1]


SETS = {
    "human_enhancers_cohn": PublicSet((20843, 6948), (500, 500)),
    "human_enhancers_ensembl": PublicSet((123872, 30970), (2, 573)),
    "human_ensembl_regulatory": PublicSet((231348, 57713), (71, 802)),
    "human_nontata_promoters": PublicSet((27097, 9034), (251, 251)),
    "human_ocr_ensembl": PublicSet((139804, 34952), (71, 593)),
    "demo_coding_vs_intergenomic_seqs": PublicSet((75000, 25000), (200, 200)),
    "demo_human_or_worm": PublicSet((75000, 25000), (200, 200)),
    "drosophila_enhancers_stark": PublicSet((5184, 1730), (236, 3237)),
    "dummy_mouse_enhancers_ensembl": PublicSet((968, 242), (331, 4776)),
    **_gue(
        "tf",
        101,
        tf_0=(32378, 1000, 1000),
        tf_1=(30672, 1000, 1000),
        tf_2=(19000, 1000, 1000),
        tf_3=(27294, 1000, 1000),
        tf_4=(19000, 1000, 1000),
    ),
    **_gue(
        "mouse",
        101,
        mouse_0=(6478, 810, 810),
        mouse_2=(2620, 328, 328),
        mouse_3=(1904, 239, 239),
        mouse_4=(15064, 1883, 1883),
    ),
    **_gue(
        "prom",
        70,
        prom_core_all=(47356, 5920, 5920),
        prom_core_notata=(42452, 5307, 5307),
        prom_core_tata=(4904, 613, 613),
    ),
    **_gue("prom", 300, prom_300_tata=(4904, 613, 613)),
}
GENOMIC_BENCHMARKS = [name for name in SETS if "/" not in name]


def local_files(name: str, root: Path | None = None) -> dict[str, list[Path]]:
    """The files of a set by part, below `root` (default: `data_root()`); empty where one is missing.

    A GenomicBenchmarks set is one table, whose split column names the parts.
    """
    folder = (root or data_root()) / "genomics"
    if not SETS[name].folder:
        table = folder / "genomic_benchmarks" / f"{name}.csv.gz"
        return {"train": [table]} if table.is_file() else {}
    files = {
        part: next((p for p in (folder / name / f"{file}.csv", folder / name / f"{file}.csv.gz") if p.is_file()), None)
        for part, file in PARTS.items()
    }
    return {part: [path] for part, path in files.items() if path} if all(files.values()) else {}


def fetch(name: str, root: Path | None = None, source: Path | None = None, retries: int = 4) -> list[Path]:
    """Paths of a set's files, downloaded, checked and converted to tables when they are not there yet.

    Args:
        name: a key of SETS.
        root: data folder.
        source: the zip of a GenomicBenchmarks set that was downloaded by hand.
        retries: see `download`.

    Raises:
        ValueError: no set of that name, or what was downloaded is not it.
        DownloadError: it could not be fetched.
    """
    if name not in SETS:
        raise ValueError(f"unknown set {name!r}; choose from {', '.join(SETS)}, or `all` for GenomicBenchmarks in full")
    if parts := local_files(name, root):
        files = [path for paths in parts.values() for path in paths]
        for path in files:
            record(path, path.name)
        return files
    folder = (root or data_root()) / "genomics"
    expected = SETS[name]
    if expected.folder:
        paths = []
        checksums = gue.SHA256.get(Path(name).name, (None,) * len(PARTS))
        for file, rows, sha256 in zip(PARTS.values(), expected.rows, checksums, strict=True):
            url = DEEPGENE.format(expected.folder, file)
            path = download(url, folder / name / f"{file}.csv.new", sha256, retries)
            with reading(path, "a csv", "delete it and run the command again"):
                table = pd.read_csv(path, dtype=str)
                lengths = table["sequence"].str.len()
            _check(name, {file: len(table)}, {file: rows}, lengths, expected.lengths)
            if sha256 is None:
                record(path, f"{file}.csv", url)
            os.replace(path, path.with_suffix(""))
            paths.append(path.with_suffix(""))
        return paths
    target = folder / "genomic_benchmarks" / f"{name}.csv.gz"
    target.parent.mkdir(parents=True, exist_ok=True)
    if source is not None:
        rows = zip_rows(source)
    else:
        try:
            url = ZENODO.format(name)
            path = download(url, target.with_name(f"{name}.zip"), None, retries)
            rows = list(zip_rows(path))  # read before its checksum is recorded: an error page is no zip
            record(path, path.name, url)
        except DownloadError:  # Zenodo is not always up; the mirror has numbers for the names of classes
            rows = _mirror_rows(name, target.parent, retries)
    return [write_table(name, rows, target)]


def zip_rows(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """(id, sequence, class, split) of every sequence of the package's zip, SET/{train,test}/CLASS/ID.txt, sorted."""
    kind = "the zip of a GenomicBenchmarks set"
    with reading(path, kind, "delete it and download it again") as at, zipfile.ZipFile(path) as archive:
        for entry in sorted(name for name in archive.namelist() if name.endswith(".txt")):
            at.place = entry
            split, label, file = entry.split("/")[-3:]
            yield f"{split}/{label}/{file[:-4]}", archive.read(entry).decode().strip(), label, split


def _mirror_rows(name: str, folder: Path, retries: int) -> Iterator[tuple[str, str, str, str]]:
    for split in ("train", "test"):
        url = MIRROR.format(name, split)
        path = download(url, folder / f"{name}.{split}.parquet", None, retries)
        with reading(path, "a parquet file", "delete it and run the command again"):
            table = pd.read_parquet(path, columns=["seq", "label"])
        record(path, path.name, url)
        for row, (sequence, label) in enumerate(zip(table["seq"], table["label"], strict=True)):
            yield f"{split}/{row}", sequence, str(label), split


def write_table(name: str, rows: Iterable[tuple[str, str, str, str]], target: Path) -> Path:
    """Write a GenomicBenchmarks set as one csv.gz with id, sequence, label and split, when it holds what is published.

    Raises:
        ValueError: row counts or lengths differ from the published ones; nothing is written.
    """
    table = pd.DataFrame(rows, columns=["id", "sequence", "label", "split"])
    expected = SETS[name]
    counts = table["split"].value_counts().to_dict()
    wanted = dict(zip(("train", "test"), expected.rows, strict=True))
    _check(name, counts, wanted, table["sequence"].str.len(), expected.lengths)
    text = io.StringIO()
    table.to_csv(text, index=False, quoting=csv.QUOTE_MINIMAL)
    part = target.with_name(target.name + ".part")
    part.write_bytes(gzip.compress(text.getvalue().encode(), 6, mtime=0))
    os.replace(part, target)
    return target


def _check(
    name: str, counts: dict[str, int], wanted: dict[str, int], lengths: pd.Series, expected: tuple[int, int]
) -> None:
    if counts != wanted:
        raise ValueError(f"{name}: holds {counts} rows, published are {wanted}; the download is cut, try again")
    if (actual := (int(lengths.min()), int(lengths.max()))) != expected:
        raise ValueError(f"{name}: lengths run from {actual[0]} to {actual[1]}, published are {expected}; try again")
