"""Stamps as people write them: read in the one way that gives a regular clock, or refused with the key."""

import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dateutil import tz

from domains.timeseries.clock import grid_after, infer_frequency, shown
from domains.timeseries.stamps import Stamps
from domains.timeseries.time_column import read_stamps


def read(texts: list, **keys: object) -> Stamps:
    return read_stamps(Path("mine.csv"), pd.Series(texts, name="date"), lambda row: f"line {row + 2}", **keys)


def days(stamps: Stamps) -> list[str]:
    return [str(stamp) for stamp in shown(stamps.at, stamps.zone)]


MONTHS = pd.date_range("2005-01-01", periods=30, freq="MS")


@pytest.mark.parametrize(
    ("form", "freq"),
    [
        ("%Y-%m-%d", "D"),
        ("%Y/%m/%d %H:%M", "h"),
        ("%d.%m.%Y", "D"),
        ("%d/%m/%Y %H.%M.%S", "h"),
        ("%m/%d/%Y %I:%M %p", "h"),
        ("%d-%b-%Y", "D"),
        ("%b %d, %Y", "D"),
        ("%d %B %Y %H:%M:%S", "15min"),
        ("%d.%m.%y", "D"),
        ("%m/%d/%y", "D"),
        ("%d-%b-%y", "D"),
        ("%Y%m%d", "D"),
        ("%Y%m%d%H%M", "h"),
        ("%Y%m", "MS"),
        ("%Y-%m", "MS"),
        ("%b %Y", "MS"),
        ("%b-%y", "MS"),
        ("%m/%Y", "MS"),
        ("%Y", "YS"),
        ("%d/%m/%Y", "MS"),
        ("%m/%d/%Y", "MS"),
        ("%G-W%V-%u", "W-SUN"),
        ("%Y%m%dT%H%M%S", "h"),
        ("%Y-%j", "D"),
        ("%YM%m", "MS"),
        ("%d%b%Y", "D"),
    ],
)
def test_what_is_written_in_many_ways_is_read_alike(form: str, freq: str) -> None:
    written = pd.date_range("2024-01-01", periods=60, freq=freq)
    if freq == "YS":
        written = written - pd.DateOffset(years=60)
    stamps = read(list(written.strftime(form)))
    np.testing.assert_array_equal(stamps.at, written.as_unit("ns").asi8)


def test_quarters_and_iso_forms_in_any_mixture() -> None:
    assert days(read(["Q4/2023", "2024:Q1", "2024q2"]))[1:] == ["2024-01-01 00:00:00", "2024-04-01 00:00:00"]
    assert days(read(["2024-W1", "2024-W10"])) == ["2024-01-01 00:00:00", "2024-03-04 00:00:00"]
    assert days(read(["2024Q1", "2Q2024", "2024-Q3"])) == [f"2024-0{m}-01 00:00:00" for m in (1, 4, 7)]
    mixed = ["2024-01-01", "2024-01-01 01:00:00", "2024-01-01T02:00", "2024-01-01T03:00:00.5"]
    assert days(read(mixed))[1:3] == ["2024-01-01 01:00:00", "2024-01-01 02:00:00"]


def test_the_reading_with_a_regular_clock_is_told() -> None:
    stamps = read(list(MONTHS.strftime("%d/%m/%Y")))
    assert stamps.said == ("01/01/2005 read as day month year",) and infer_frequency(stamps.at) == "MS"


def test_readings_that_agree_are_one() -> None:
    years = [f"01/01/{year}" for year in range(1990, 2020)]
    np.testing.assert_array_equal(read(years).at, read([f"{year}-01-01" for year in range(1990, 2020)]).at)


def test_two_regular_readings_are_refused_with_the_key_that_decides() -> None:
    texts = [f"{day:02}/03/2024" for day in range(1, 13)]
    both = "line 2: '01/03/2024', .* can be read in 2 ways .*2024-03-01.*2024-01-03.*; set data.day_first to true or fa"
    with pytest.raises(ValueError, match=both):
        read(texts)
    assert days(read(texts, day_first=True))[1] == "2024-03-02 00:00:00"
    assert days(read(texts, day_first=False))[1] == "2024-02-03 00:00:00"
    assert days(read(texts, time_format="%m/%d/%Y"))[1] == "2024-02-03 00:00:00"


def test_a_year_of_one_digit_needs_its_format() -> None:
    texts = [f"{1 + i // 12}-{1 + i % 12:02}" for i in range(36)]
    told = "mine.csv line 2: '1-01', '1-02', '1-03' name no year in full; .* 2001-01 .* data.time_format to '%y-%m'"
    with pytest.raises(ValueError, match=told):
        read(texts)
    np.testing.assert_array_equal(
        read(texts, time_format="%y-%m").at, pd.date_range("2001-01", periods=36, freq="MS").as_unit("ns").asi8
    )


def test_integers_count_and_large_ones_need_their_unit() -> None:
    stamps = read([str(i) for i in range(3, 30, 3)])
    assert stamps.zone == "integer" and infer_frequency(stamps.at, "integer") == "3ns"
    assert list(shown(grid_after(27, "3ns", 2, "integer"), "integer")) == [30, 33]
    seconds = [str(1_600_000_000 + 3600 * i) for i in range(9)]
    with pytest.raises(ValueError, match="line 2: 1600000000 is a number, .* set data.time_format to s, ms"):
        read(seconds)
    assert days(read(seconds, time_format="s"))[0] == "2020-09-13 12:26:40+00:00"
    assert read(seconds, time_format="integer").zone == "integer"


ZONES = ["Europe/Berlin", "America/New_York", "Australia/Adelaide", "Australia/Lord_Howe", "America/St_Johns"]


@pytest.mark.parametrize("zone", ZONES)
def test_offsets_come_back_across_summer_time(zone: str) -> None:
    for freq in ("h", "D"):
        written = pd.date_range("2024-01-01", "2024-12-01", freq=freq, tz=zone)
        stamps = read([stamp.isoformat() for stamp in written])
        np.testing.assert_array_equal(stamps.at, written.tz_convert("UTC").tz_localize(None).as_unit("ns").asi8)
        assert infer_frequency(stamps.at, stamps.zone) == freq
        after = shown(grid_after(int(stamps.at[-1]), freq, 200, stamps.zone), stamps.zone)
        assert list(after) == list(pd.date_range(written[-1], periods=201, freq=freq)[1:])
        assert "(another: data.time_zone)" in stamps.said[0]


def test_of_zones_with_the_same_offsets_it_is_one_that_most_agree_with() -> None:
    """Coyhaique, which comes first, kept summer time in 2025 when Santiago did not."""
    written = pd.date_range("2024-03-01", "2024-12-01", freq="h", tz="America/Santiago")
    stamps = read([stamp.isoformat() for stamp in written])
    after = shown(grid_after(int(stamps.at[-1]), "h", 5000, stamps.zone), stamps.zone)
    assert stamps.zone == "America/Santiago" and str(after[-1]).endswith("-04:00")


@pytest.mark.parametrize("time", ["T05", "T0500", "T050000", " 05:00:00.5"])
@pytest.mark.parametrize(
    ("offset", "zone"), [("Z", "UTC"), ("+01", "+01:00"), ("-0330", "-03:30"), ("+05:45", "+05:45")]
)
def test_an_offset_is_read_behind_every_form_of_a_time(time: str, offset: str, zone: str) -> None:
    stamps = read([f"2024-01-{day:02}{time}{offset}" for day in range(1, 4)])
    assert stamps.zone == zone and days(stamps)[1].startswith("2024-01-02 05:00:00")


def test_a_format_keeps_offsets_and_guesses_nothing() -> None:
    stamps = read(["31.12.2023 23:00 +0530", "01.01.2024 00:00 +0530"], time_format="%d.%m.%Y %H:%M %z")
    assert days(stamps)[1] == "2024-01-01 00:00:00+05:30"
    with pytest.raises(ValueError, match="data.time_format 'mixed' would guess"):
        read(["01/02/2024", "13/02/2024"], time_format="mixed")


def test_one_offset_and_a_named_zone_are_kept() -> None:
    texts = [f"2024-01-01T{hour:02}:00:00-03:30" for hour in range(9)]
    assert days(read(texts))[1] == "2024-01-01 01:00:00-03:30" and read(texts).said == ()
    assert days(read(texts, time_zone="UTC"))[0] == "2024-01-01 03:30:00+00:00"
    with pytest.raises(ValueError, match="data.time_zone 'Berlin' is no zone; write Europe/Berlin"):
        read(texts, time_zone="Berlin")


def test_a_frame_may_have_offsets_and_zones_of_other_libraries() -> None:
    hours = pd.date_range("2024-03-30", periods=60, freq="h")
    for zone, name in [
        (datetime.timezone(datetime.timedelta(hours=-3, minutes=-30)), "-03:30"),
        (hours.tz_localize("+05:30").tz, "+05:30"),
        (tz.gettz("Europe/Berlin"), "Europe/Berlin"),
    ]:
        written = pd.Series(hours.tz_localize("UTC").tz_convert(zone))
        stamps = read(written)
        assert stamps.zone == name and (shown(stamps.at, stamps.zone) == written).all()
        assert bool(stamps.said) == (name == "Europe/Berlin")  # found by its offsets, and told


def test_a_wall_clock_is_placed_in_its_zone() -> None:
    written = pd.date_range("2024-10-26", periods=72, freq="h", tz="Europe/Berlin")  # the hour of two comes twice
    stamps = read(list(written.tz_localize(None).strftime("%Y-%m-%d %H:%M")), time_zone="Europe/Berlin")
    assert (np.diff(stamps.at) == 3_600_000_000_000).all()
    with pytest.raises(
        ValueError, match="line 3: data.time_zone Europe/Berlin leaves 2024-03-31 02:00:00 out .*; name"
    ):
        read(["2024-03-31 01:00", "2024-03-31 02:00", "2024-03-31 03:00"], time_zone="Europe/Berlin")
    with pytest.raises(ValueError, match="line 3: 2024-10-27 02:00:00 comes twice in data.time_zone .*; write offsets"):
        read(["2024-10-27 01:00", "2024-10-27 02:00", "2024-10-27 03:00"], time_zone="Europe/Berlin")


@pytest.mark.parametrize("zone", ["America/Santiago", "America/Havana"])  # clocks change at midnight
def test_days_begin_where_the_clock_of_a_zone_lets_them(zone: str) -> None:
    written = pd.date_range("2023-08-20", periods=120).strftime("%Y-%m-%d")
    stamps = read(list(written), time_zone=zone)
    assert infer_frequency(stamps.at, zone) == "D"
    assert [str(day.date()) for day in shown(stamps.at, zone)] == list(written)
    following = shown(grid_after(stamps.at[-1], "D", 2, zone), zone)
    assert [str(day.tz_localize(None)) for day in following] == ["2023-12-18 00:00:00", "2023-12-19 00:00:00"]


def test_a_zone_that_is_named_is_not_guessed_beside_it() -> None:
    written = pd.date_range("2023-08-20", periods=30).tz_localize("America/Santiago", nonexistent="shift_forward")
    stamps = read([stamp.isoformat() for stamp in written], time_zone="America/Santiago")
    assert stamps.zone == "America/Santiago" and stamps.said == ()


@pytest.mark.parametrize(
    "texts",
    [
        ["décembre 2023", "janvier 2024", "fevrier 2024"],
        ["1. Dez. 2023", "1. Jan. 2024", "1. Feb. 2024"],
        ["1 de diciembre de 2023", "1 de enero de 2024", "1 de febrero de 2024"],
        ["1er déc. 2023", "1er janv. 2024", "1er févr. 2024"],
        ["Friday, December 1st, 2023", "Monday, January 1st, 2024", "Thursday, February 1st, 2024"],
        ["Fri 01 Dec 2023 00:00:00", "Mon 01 Jan 2024 00:00:00", "Thu 01 Feb 2024 00:00:00"],
        ["dicembre 2023", "gennaio 2024", "febbraio 2024"],
    ],
)
def test_months_have_names_in_several_languages(texts: list[str]) -> None:
    assert days(read(texts)) == ["2023-12-01 00:00:00", "2024-01-01 00:00:00", "2024-02-01 00:00:00"]


@pytest.mark.parametrize(("first", "last"), [("1960-01", "1975-12"), ("1995-01", "2010-12"), ("2020-01", "2024-12")])
def test_years_of_two_digits_are_those_that_join(first: str, last: str) -> None:
    written = pd.date_range(first, last, freq="MS")
    stamps = read(list(written.strftime("%d-%b-%y")))
    np.testing.assert_array_equal(stamps.at, written.as_unit("ns").asi8)
    assert stamps.said[-1:] == (f"years of two digits read as {first[:4]} to {last[:4]} (for others write all four)",)


def test_counts_since_1970_need_not_be_whole() -> None:
    for column in (["1704067200.0", "1704067200.5"], [1704067200.0, 1704067200.5]):
        assert days(read(column, time_format="s"))[1] == "2024-01-01 00:00:00.500000+00:00"
    assert read(["3.0", "4.0"], time_format="integer").at.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["2024-01-01", "soon"], "line 3: 'soon' is no time stamp; write it as"),
        (["2024-01-01", None], "line 3: the time column 'date' is empty"),
        (["2024-01-01 00:00", "2024-01-01 25:00"], "line 3: '2024-01-01 25:00' has no such time of day"),
        (["2024-01-01T00:00Z", "2024-01-01T01:00"], "line 3: .* has no offset, where others have one"),
        (["2024-01-01T00:00+25:00"], r"line 2: '2024-01-01T00:00.25:00' is no time stamp"),
        (["0024-01-01 00:00:00"] * 3, "line 2: .* is outside the years 1678 to 2261"),
        (["2024-01-01 02:00:00", "2024-01-01 02:0:00"], "line 3: '2024-01-01 02:0:00' is no time stamp"),
        (["2024-01-01", "2024-01--02"], "line 3: '2024-01--02' is no time stamp"),
        (["31/02/2024", "01/03/2024"], "fit no order of day, month and year in all rows"),
        (
            ["2024-02-28", "2024-02-29", "2024-02-30"],
            "line 4: '2024-02-30' is no day of the calendar; .* remove the row",
        ),
        (["[UTC]", "2024-02-28", "2024-02-29"], r"line 2: '\[UTC\]' is no time stamp; .* or remove the row"),
        (["1950/51", "1951/52"], "line 2: '1950/51', '1951/52' fit no order .*; write it as 2024"),
        (["202351", "202352", "202401"], "line 2: .* are times or plain counts; .* write them as 2024-W05"),
        (["2024031", "2024032"], "line 2: .* are times or plain counts; .* set data.time_format to '%Y%j'"),
        ([1.5, 2.5], "line 2: 1.5 is a number, not a time stamp"),
        ([True, False], "line 2: True is a number, not a time stamp"),
    ],
)
def test_what_cannot_be_read_is_named(texts: list, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read(texts)
    assert "mine.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("stamps", "freq", "following"),
    [
        (pd.date_range("2005-01-01", periods=40, freq="MS") + pd.Timedelta("14D"), "M@15", "2008-05-15"),
        ([pd.Timestamp(2005 + i // 12, 1 + i % 12, min(30, [31, 28, 31][i % 12] if i % 12 < 3 else 30))
          for i in range(37)], "M@30", "2008-02-29"),
        (pd.date_range("2005-02-01", periods=40, freq="3MS") + pd.Timedelta("9D"), "3M@10", "2015-02-10"),
        (MONTHS + pd.to_timedelta([i * 7 % 26 for i in range(30)], unit="D"), "M@1", None),
    ],
)  # fmt: skip
def test_months_at_any_day(stamps: object, freq: str, following: str | None) -> None:
    at = pd.DatetimeIndex(stamps).as_unit("ns").asi8
    assert infer_frequency(at) == freq
    if following:
        assert str(shown(grid_after(int(at[-1]), freq, 1), "")[0].date()) == following
