"""The public forecasting benchmarks: address, checksum and split of each, in one table."""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from data_prep.files import data_root, download

ETT = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small"


@dataclass(frozen=True)
class Benchmark:
    """One public series.

    Args:
        url: address of the csv.
        sha256: checksum of the csv (decompressed, where it is kept as csv.gz).
        variables: number of value columns.
        ends: rows at which train, validation and test end; None splits all rows 0.7 / 0.1 / 0.2.
        regular: False where the published file has known gaps or repeated stamps that the benchmark keeps.
    """

    url: str
    sha256: str
    variables: int
    ends: tuple[int, int, int] | None = None
    regular: bool = True


HOURLY = (8640, 11520, 14400)  # 12, 4 and 4 "months" of 30 days; the rows after them belong to no part
QUARTERLY = (34560, 46080, 57600)

BENCHMARKS = {
    "ETTh1": Benchmark(
        f"{ETT}/ETTh1.csv", "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066", 7, HOURLY
    ),
    "ETTh2": Benchmark(
        f"{ETT}/ETTh2.csv", "a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b", 7, HOURLY
    ),
    "ETTm1": Benchmark(
        f"{ETT}/ETTm1.csv", "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e", 7, QUARTERLY
    ),
    "ETTm2": Benchmark(
        f"{ETT}/ETTm2.csv", "db973ca252c6410a30d0469b13d696cf919648d0f3fd588c60f03fdbdbadd1fd", 7, QUARTERLY
    ),
}


def local_file(name: str, root: Path | None = None) -> Path | None:
    """The csv or csv.gz of a benchmark under `root` (default: `data_root()`), or None."""
    folder = (root or data_root()) / "timeseries"
    return next((path for path in (folder / f"{name}.csv", folder / f"{name}.csv.gz") if path.is_file()), None)


def fetch(name: str, root: Path | None = None, retries: int = 4) -> Path:
    """Path of a benchmark's csv, downloaded when it is not there yet.

    Raises:
        ValueError: no benchmark of that name, or the file that is there is not it.
        DownloadError: it could not be fetched.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"unknown set {name!r}; choose from {', '.join(BENCHMARKS)}")
    target = (root or data_root()) / "timeseries" / f"{name}.csv"
    benchmark = BENCHMARKS[name]
    path = local_file(name, root)
    if path is None:
        return download(benchmark.url, target, benchmark.sha256, retries)
    raw = path.read_bytes()
    found = hashlib.sha256(gzip.decompress(raw) if path.suffix == ".gz" else raw).hexdigest()
    if found != benchmark.sha256:
        raise ValueError(f"{path}: sha256 of the csv is {found}, expected {benchmark.sha256}; delete it and run again")
    return path
