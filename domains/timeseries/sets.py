"""The series of a benchmark: the published file, or a generated one in its place, and that loudly."""

from app.sample import Source, refuse_or_announce
from data_prep.files import data_root
from data_prep.timeseries import BARE_FREQ, BARE_START, BENCHMARKS, local_file, stem, verify
from domains.timeseries.columns import Keys
from domains.timeseries.reader import read_bare, read_file
from domains.timeseries.series import Series, sample_series


def published_series(name: str, source: Source, seed: int, failure: str) -> Series:
    """The series of a benchmark.

    Args:
        name: of the benchmark.
        source: see `app.sample`.
        seed: of the generated series.
        failure: why the file could not be downloaded, for the warning.

    Raises:
        FileNotFoundError: there is no file, and `source` insists on it.
        ValueError: the file is not the published one.
    """
    path = None if source == "sample" else local_file(name)
    if path is not None:
        verify(name, path)
        if path.name.endswith(".txt.gz"):
            return read_bare(path, BARE_START, BARE_FREQ)
        return read_file(path, Keys(), BENCHMARKS[name].regular).series[0]
    folder = data_root() / "timeseries"
    missing = FileNotFoundError(
        f"{folder / stem(name)}.csv[.gz]: no such file; run `python -m data_prep timeseries --sets {name}` or point "
        "TITANS_DATA to the folder that holds timeseries/"
    )
    why = f"is not in {folder} and could not be downloaded ({failure or 'not tried'})"
    refuse_or_announce(source, name, why, missing)
    ends = BENCHMARKS[name].ends
    return sample_series(BENCHMARKS[name].variables, ends[2] if ends else 14400, seed)
