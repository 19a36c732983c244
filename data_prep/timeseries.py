"""The public forecasting benchmarks: address, checksum and split of each, in one table."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

from data_prep.files import DownloadError, data_root, download

ETT = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small"
TSLIB = "https://huggingface.co/datasets/thuml/Time-Series-Library/resolve/2b66e59ee19dac8f6f19fb5d4997f289fdfea357"
LSTNET = "https://raw.githubusercontent.com/laiguokun/multivariate-time-series-data/master"


@dataclass(frozen=True)
class Benchmark:
    """One public series.

    Args:
        url: address of the csv.
        sha256: checksum of the csv (decompressed, where it is kept as csv.gz).
        variables: number of value columns.
        stem: name of the file without its ending; empty for the benchmark's own name.
        ends: rows at which train, validation and test end; None splits all rows 0.7 / 0.1 / 0.2.
        regular: False where the published file has known gaps or repeated stamps that the benchmark keeps.
        bare_url: address of the same values as STEM.txt.gz, with neither header nor dates; empty where there is none.
        bare_md5: checksum of that file as served, compressed.
    """

    url: str
    sha256: str
    variables: int
    stem: str = ""
    ends: tuple[int, int, int] | None = None
    regular: bool = True
    bare_url: str = ""
    bare_md5: str = ""


HOURLY = (8640, 11520, 14400)  # 12, 4 and 4 "months" of 30 days; the rows after them belong to no part
QUARTERLY = (34560, 46080, 57600)
# A csv file of a benchmark begins with this stamp and goes on at this frequency; a file without dates is read so.
BARE_START = "2016-07-01 02:00:00"
BARE_FREQ = "h"

BENCHMARKS = {
    "ETTh1": Benchmark(
        f"{ETT}/ETTh1.csv", "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066", 7, ends=HOURLY
    ),
    "ETTh2": Benchmark(
        f"{ETT}/ETTh2.csv", "a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b", 7, ends=HOURLY
    ),
    "ETTm1": Benchmark(
        f"{ETT}/ETTm1.csv", "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e", 7, ends=QUARTERLY
    ),
    "ETTm2": Benchmark(
        f"{ETT}/ETTm2.csv", "db973ca252c6410a30d0469b13d696cf919648d0f3fd588c60f03fdbdbadd1fd", 7, ends=QUARTERLY
    ),
    "Weather": Benchmark(  # 81 cells of -9999, one repeated stamp and one gap, all of which belong to the benchmark
        f"{TSLIB}/weather/weather.csv",
        "34ee981d07313e51da2a50bb600072c8ae4a69cb4b0651f4cb93a069d7a2ba63",
        21,
        stem="weather",
        regular=False,
    ),
    "ECL": Benchmark(
        f"{TSLIB}/electricity/electricity.csv",
        "7e45845d54c5219bad0ae6bc1b5316cf8ff9cead5d33fa998a5a51c2e4a497ad",
        321,
        stem="electricity",
        bare_url=f"{LSTNET}/electricity/electricity.txt.gz",
        bare_md5="07d51dc39c404599ead932937985957b",
    ),
    "Traffic": Benchmark(
        f"{TSLIB}/traffic/traffic.csv",
        "cb06463d56fa17d87f47027cd9389ceae82a69eddee51cdb61480e120dab0b16",
        862,
        stem="traffic",
        bare_url=f"{LSTNET}/traffic/traffic.txt.gz",
        bare_md5="db745d0c9f074159581a076cbb3f23d6",
    ),
}


def stem(name: str) -> str:
    """File name of a benchmark without its ending."""
    return BENCHMARKS[name].stem or name


def local_file(name: str, root: Path | None = None) -> Path | None:
    """The csv, csv.gz or txt.gz of a benchmark under `root` (default: `data_root()`), or None."""
    folder = (root or data_root()) / "timeseries"
    endings = ["csv", "csv.gz"] + ["txt.gz"] * bool(BENCHMARKS[name].bare_md5)
    paths = (folder / f"{stem(name)}.{ending}" for ending in endings)
    return next((path for path in paths if path.is_file()), None)


def verify(name: str, path: Path) -> None:
    """Refuse a benchmark's file that is not the published one.

    Raises:
        ValueError: names the file's checksum and the published one, or says that the file is damaged.
    """
    benchmark = BENCHMARKS[name]
    raw = path.read_bytes()
    if path.name.endswith(".txt.gz"):
        kind = "md5 of the file"
        actual = hashlib.md5(raw).hexdigest()
        expected = benchmark.bare_md5
    else:
        try:
            content = gzip.decompress(raw) if path.suffix == ".gz" else raw
        except (EOFError, gzip.BadGzipFile, zlib.error) as err:
            raise ValueError(f"{path}: truncated or damaged gzip file ({err}); download it again") from err
        kind = "sha256 of the csv"
        actual = hashlib.sha256(content).hexdigest()
        expected = benchmark.sha256
    if actual != expected:
        raise ValueError(f"{path}: {kind} is {actual}, expected {expected}; delete it and download it again")


def fetch(name: str, root: Path | None = None, retries: int = 4) -> Path:
    """Path of a benchmark's file, downloaded when it is not there yet.

    Raises:
        ValueError: no benchmark of that name, or the file that is there is not it.
        DownloadError: it could not be fetched.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"unknown set {name!r}; choose from {', '.join(BENCHMARKS)}")
    path = local_file(name, root)
    if path is not None:
        verify(name, path)
        return path
    target = (root or data_root()) / "timeseries" / f"{stem(name)}.csv"
    benchmark = BENCHMARKS[name]
    try:
        return download(benchmark.url, target, benchmark.sha256, retries)
    except DownloadError as err:
        if not benchmark.bare_url:
            raise
        raise DownloadError(f"{err}; or put {benchmark.bare_url} into {target.parent}") from err
