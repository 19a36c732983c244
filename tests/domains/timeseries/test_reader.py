"""What a csv must be, and the error each defect gets."""

import gzip
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from domains.timeseries.clock import say
from domains.timeseries.reader import read_series
from domains.timeseries.series import Series, sample_series, stamps_after


def edited(csv: Path, edit) -> Path:
    """`csv` with its lines (header first) changed by `edit`, in place."""
    lines = csv.read_text().splitlines()
    csv.write_text("\n".join(edit(lines)) + "\n")
    return csv


def with_cell(line: int, column: int, text: str):
    """An edit that puts `text` into one cell; `line` counts from 1, as the errors do."""

    def edit(lines: list[str]) -> list[str]:
        cells = lines[line - 1].split(",")
        cells[column] = text
        return lines[: line - 1] + [",".join(cells)] + lines[line:]

    return edit


def test_reads_back_what_was_written(csv: Path, series: Series) -> None:
    read = read_series(csv)
    np.testing.assert_allclose(read.values, series.values, rtol=1e-6)
    np.testing.assert_array_equal(read.stamps, series.stamps)
    assert (read.columns, read.freq, len(read.sha256)) == (series.columns, "h", 64)


def test_gzip_holds_the_same_series_and_checksum(csv: Path) -> None:
    packed = csv.with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(csv.read_bytes()))
    assert read_series(packed).sha256 == read_series(csv).sha256


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            with_cell(20, 2, ""),
            r"1 cell without a finite value \(line 20 'series_1'\); fill the cells, or set data.defects",
        ),
        (
            with_cell(20, 2, "inf"),
            r"1 cell without a finite value \(line 20 'series_1'\); fill the cells, or set data.defects",
        ),
        (with_cell(2, 1, "-inf"), r"1 cell without a finite value \(line 2 'series_0'\)"),  # before which none begins
        (with_cell(20, 3, "n.a"), r"line 20: column 'series_2' is not numeric \('n.a'\)"),
        (with_cell(20, 0, "soon"), "line 20: 'soon' is no time stamp"),
        (
            lambda lines: [
                lines[0],
                *(f"{1600000000 + i},{line.split(',', 1)[1]}" for i, line in enumerate(lines[1:])),
            ],
            "line 2: 1600000000 is a number, not a time stamp; set data.time_format to s, ms",
        ),
        (
            lambda lines: lines[:19] + lines[20:],
            r"1 gap in time \(line 20: 2020-01-01 17:00:00 is followed by 2020-01-01 19:00:00\); add the",
        ),
        (lambda lines: lines[:20] + lines[19:], r"1 duplicate stamp \(line 21: 2020-01-01 18:00:00\); keep one"),
        (
            lambda lines: [*lines[:19], lines[20], lines[19], *lines[21:]],
            r"1 unsorted stamp \(line 21: 2020-01-01 18:00:00\); sort",
        ),
        (lambda lines: ["time" + lines[0][4:], *lines[1:]], "no column 'date' among"),
        (lambda lines: [line.split(",")[0] for line in lines], "needs a value column beside the time column"),
        (lambda lines: lines[:2], "1 rows are too few"),
        (lambda lines: lines[:1], "0 rows are too few"),
        (lambda lines: [lines[0], *[lines[1]] * 5], r"4 duplicate stamps \(line 3: .* and 1 more\)"),
        (lambda lines: [*lines[:9], lines[9] + ",1,2", *lines[10:]], "not a readable csv"),
        (lambda lines: [], "not a readable csv"),
    ],
)
def test_a_defect_is_one_line_that_names_file_place_and_cure(csv: Path, edit, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_series(edited(csv, edit))
    text = str(caught.value)
    assert "\n" not in text and str(csv) in text and re.search("[;(]", text)


@pytest.mark.parametrize(
    ("form", "freq", "following"),
    [
        ("%Y", "YS", "2010-01-01"),
        ("%Y-%m-%d", "YE", "2010-12-31"),
        ("%Y-06-15", "YS", "2010-06-15"),
        ("%Y-02-29", "4YS", "2068-02-29"),
    ],
)
def test_years_are_a_frequency(tmp_path: Path, form: str, freq: str, following: str) -> None:
    first, end = ("1948", "2065") if freq == "4YS" else ("1950", "2010")
    stamps = pd.date_range(first, end, freq=freq, inclusive="left").strftime(form)
    pd.DataFrame({"date": stamps, "load": range(len(stamps))}).to_csv(tmp_path / "years.csv", index=False)
    series = read_series(tmp_path / "years.csv")
    (after,) = stamps_after(series.stamps, series.freq, 1, series.zone)
    assert say(after, "") == f"{following} 00:00:00"


@pytest.mark.filterwarnings("error")
def test_three_centuries_are_more_nanoseconds_than_int64_holds(tmp_path: Path) -> None:
    stamps = pd.date_range("1700-01-01", "2010-12-01", freq="MS")
    table = pd.DataFrame({"date": stamps.strftime("%d/%m/%Y"), "spots": range(len(stamps))})
    table.to_csv(tmp_path / "spots.csv", index=False)
    series = read_series(tmp_path / "spots.csv")
    assert series.freq == "MS" and (series.stamps == stamps.as_unit("ns").asi8).all()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.csv: no such file; .*data_prep"):
        read_series(tmp_path / "nowhere.csv")


def test_a_truncated_gzip_is_named(csv: Path) -> None:
    packed = csv.with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(csv.read_bytes())[:-100])
    with pytest.raises(ValueError, match="mine.csv.gz: truncated or damaged gzip .* download it again"):
        read_series(packed)


def test_local_time_in_spring_is_a_gap_and_offsets_mend_it(tmp_path: Path) -> None:
    stamps = pd.date_range("2024-03-30", periods=72, freq="h", tz="Europe/Berlin")
    table = pd.DataFrame({"date": stamps.tz_localize(None), "load": np.arange(72.0)})
    table.to_csv(tmp_path / "local.csv", index=False)
    with pytest.raises(ValueError, match=r"1 gap in time \(line 28: .* write UTC, or set data.time_zone"):
        read_series(tmp_path / "local.csv")
    table.assign(date=stamps).to_csv(tmp_path / "offset.csv", index=False)
    read = read_series(tmp_path / "offset.csv")
    assert read.freq == "h" and (np.diff(read.stamps) == 3_600_000_000_000).all()


def test_local_time_in_autumn_is_a_duplicate(tmp_path: Path) -> None:
    stamps = pd.date_range("2024-10-26", periods=72, freq="h", tz="Europe/Berlin").tz_localize(None)
    pd.DataFrame({"date": stamps, "load": np.arange(72.0)}).to_csv(tmp_path / "local.csv", index=False)
    with pytest.raises(ValueError, match="(duplicate|unsorted) stamp .*"):
        read_series(tmp_path / "local.csv")


@pytest.mark.parametrize("freq", ["15min", "h", "D", "W-SUN", "B", "ME", "MS", "QS-JAN"])
def test_calendar_frequencies_are_inferred(tmp_path: Path, freq: str) -> None:
    stamps = pd.date_range("2021-01-01", periods=60, freq=freq)
    pd.DataFrame({"date": stamps, "value": range(60)}).to_csv(tmp_path / "mine.csv", index=False)
    assert read_series(tmp_path / "mine.csv").freq == freq


def test_an_irregular_benchmark_keeps_its_gap(csv: Path) -> None:
    assert read_series(edited(csv, lambda lines: lines[:19] + lines[20:]), regular=False).freq == "h"


def test_the_sample_depends_on_its_seed_alone() -> None:
    first, second, other = sample_series(seed=3), sample_series(seed=3), sample_series(seed=4)
    np.testing.assert_array_equal(first.values, second.values)
    assert not np.array_equal(first.values, other.values)


def test_the_sample_has_a_day_and_a_week() -> None:
    x = sample_series(rows=8400).values - sample_series(rows=8400).values.mean(0)
    power = np.abs(np.fft.rfft(x, axis=0)) ** 2
    assert (power[[50, 350]].min(0) > 100 * np.median(power, axis=0)).all()  # 8400 rows are 50 weeks, 350 days
