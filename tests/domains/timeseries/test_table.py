"""How a csv is written is found out and told, what could be two things is refused, and ids stay what they are."""

import gzip
import io
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from domains.timeseries.reader import Keys, content_of, read_file
from domains.timeseries.table_file import frame_table

HOURS = [f"2024-01-01 {hour:02}:00:00" for hour in range(12)]


@pytest.fixture
def save(tmp_path: Path):
    def save(text: str | bytes) -> Path:
        path = tmp_path / "mine.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return save


def lines(*columns: list, head: str, separator: str = ",") -> str:
    rows = [separator.join(map(str, row)) for row in zip(*columns, strict=True)]
    return "\n".join([head, *rows]) + "\n"


def test_a_european_csv_is_read_and_told(save) -> None:
    days, times = ["10/03/2004"] * 6 + ["11/03/2004"] * 6, [f"{hour % 24:02}.00.00" for hour in range(18, 30)]
    values = [f"{i},5" if i % 2 else str(i) for i in range(12)]
    large = [f"1.{i:03},25" for i in range(12)]
    text = lines(days, times, values, large, [""] * 12, head="Date;Time;CO;large;", separator=";") + ";;;;\n"
    content = read_file(save(text), Keys(["Date", "Time"]))
    series = content.series[0]
    assert series.columns == ["CO", "large"] and series.freq == "h" and series.values[3].tolist() == [3.5, 1003.25]
    assert str(pd.Timestamp(series.stamps[0])) == "2004-03-10 18:00:00"
    told = "; ".join(content.said)
    for part in ("parted by semicolons", "decimal commas", "1 empty row left out", "column 5 without heading"):
        assert part in told
    with pytest.raises(ValueError, match=r"column 'Time' holds the time of day; set data.time_col to \[Date, Time\]"):
        read_file(save(text), Keys("Date"))


@pytest.mark.parametrize(("encoding", "told"), [("cp1252", "Latin-1"), ("utf-8-sig", ""), ("utf-16", "UTF-16")])
def test_encodings(save, encoding: str, told: str) -> None:
    content = read_file(save(lines(HOURS, range(12), head="date,Köln").encode(encoding)), Keys())
    assert content.series[0].columns == ["Köln"] and told in "".join(content.said)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_separators(save, separator: str) -> None:
    content = read_file(save(lines(HOURS, range(12), head=f"date{separator}y", separator=separator)), Keys())
    assert content.series[0].values[:, 0].tolist() == list(range(12)) and len(content.said) == 1


@pytest.mark.parametrize(
    ("cells", "value"),
    [
        (["1 012,5", "950,25", "10 001"], [1012.5, 950.25, 10001.0]),
        (["1\u202f012,5", "950,25", "10\u00a0001"], [1012.5, 950.25, 10001.0]),
        (["1'012.5", "950.25", "10'001"], [1012.5, 950.25, 10001.0]),
        (["1.012,5", "950,25", "10.001"], [1012.5, 950.25, 10001.0]),
        (["1.012", "2.5", "3"], [1.012, 2.5, 3.0]),
    ],
)
def test_thousands_are_read_where_nothing_else_can_be_meant(save, cells: list[str], value: list[float]) -> None:
    text = lines(HOURS[:3], cells, head="date;load", separator=";")
    assert read_file(save(text), Keys()).series[0].values[:, 0].tolist() == value


@pytest.mark.parametrize(
    ("mark", "name", "separator"), [(".", "point", ";"), (",", "comma", ";"), (",", "comma", "\t")]
)
def test_marks_that_may_part_thousands_are_told_or_refused(save, mark: str, name: str, separator: str) -> None:
    def table(*cells: list[str]) -> Path:
        texts = [[cell.replace(".", mark) for cell in column] for column in cells]
        head = separator.join(["date", "load", "wind"][: len(cells) + 1])
        return save(lines(HOURS[:3], *texts, head=head, separator=separator))

    said = read_file(table(["1.012", "1.013", "1.014"]), Keys()).said
    assert f"'load' read with decimal {name}s: 1{mark}012 is less than 2" in said
    with pytest.raises(
        ValueError, match=f"line 3: column 'load' holds 1{mark}013 beside 950, .* write 1013, or 1{mark}0"
    ):
        read_file(table(["950", "1.013", "1.014"]), Keys())
    content = read_file(table(["950", "1.013", "1.014"], ["0.5", "1.25", "7"]), Keys())  # the wind tells what a mark is
    assert content.series[0].values[:2].tolist() == [[950, 0.5], [1.013, 1.25]]


@pytest.mark.parametrize(
    ("cells", "cell"),
    [(["1.25", "1.250", "3.5"], "1.25"), (["1,5", "2,5", "950.5"], "950.5"), (["0.875", "1.234", "3"], "0.875")],
)
def test_points_and_commas_are_not_both_decimal(save, cells: list[str], cell: str) -> None:
    text = lines(HOURS[:3], cells, ["1,5", "2,5", "3"], head="date;load;wind", separator=";")
    with pytest.raises(ValueError, match=rf"column 'load' is not numeric \('{cell}'\); write a decimal comma, as in"):
        read_file(save(text), Keys())


@pytest.mark.parametrize("name", ["mine.csv", "mine.CSV", "mine.tsv", "mine.txt", "mine.csv.gz"])
@pytest.mark.parametrize("packed", [False, True])
def test_what_a_file_is_counts_and_not_its_name(tmp_path: Path, name: str, packed: bool) -> None:
    raw = lines(HOURS, range(12), head="date,load").encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if packed else raw)
    assert read_file(tmp_path / name, Keys()).series[0].values[:, 0].tolist() == list(range(12))


def test_bytes_that_are_no_text_are_refused_where_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    numbers, binary = [float(i) for i in range(12)], [b"%d\xff" % i for i in range(12)]
    for column, says in (("load", "column 'load' is not numeric"), ("date", "is no time stamp")):
        pd.DataFrame({"date": HOURS, "load": numbers, column: binary}).to_parquet(path)
        with pytest.raises(ValueError, match=f"x.parquet row 1: .*{says}"):
            read_file(path, Keys())
    pd.DataFrame({"date": HOURS, "load": numbers, "shape": binary}).to_parquet(path)
    assert read_file(path, Keys(targets=["load"])).series[0].values[:, 0].tolist() == numbers
    long = pd.DataFrame(
        {"unique_id": [b"\xff", b"\xfe"] * 6, "ds": pd.DatetimeIndex(HOURS).repeat(2)[:12], "y": numbers}
    )
    long.to_parquet(path)
    assert [part.columns for part in read_file(path, Keys()).series] == [["b'\\xff'"], ["b'\\xfe'"]]


def test_parquet_and_excel_are_known_by_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    pd.DataFrame({"date": HOURS, "load": range(12), "note": "calm"}).to_parquet(path)
    assert read_file(path, Keys(targets=["load"])).series[0].values[:, 0].tolist() == list(range(12))
    with pytest.raises(ValueError, match="mine.csv row 1: column 'note' is not numeric"):
        read_file(path, Keys())
    path.write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(ValueError, match="mine.csv: is an Excel file or a zip archive; export it as csv"):
        read_file(path, Keys())


def test_excels_note_and_empty_lines_above_the_headings_are_passed_over(save) -> None:
    text = lines(HOURS, range(12), head="date;load", separator=";")
    for above in ("sep=;\n", "\n\n"):
        assert read_file(save(above + text), Keys()).series[0].values[:, 0].tolist() == list(range(12))
    with pytest.raises(ValueError, match="line 4: .* has 3 cells and line 2 2 headings"):
        read_file(save("sep=;\n" + text.replace(";1\n", ";1;5\n")), Keys())


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="this is a folder; name one file in it"):
        read_file(tmp_path, Keys())


def test_columns_that_nothing_is_made_of_are_told(save) -> None:
    text = lines(["a"] * 12, HOURS, range(12), range(12), head="unique_id,ds,y,price")
    for keys in (Keys(), Keys("ds")):  # the time that a frame of pandas tells by itself
        content = read_file(save(text), keys)
        assert content.panel and content.said == ["column price not read"]


def test_series_of_two_frequencies_are_told_apart(save) -> None:
    days = [f"2024-01-{day + 1:02}" for day in range(24)]
    months = [f"20{month // 12 + 20}-{month % 12 + 1:02}-01" for month in range(24)]
    text = lines(["a"] * 24 + ["b"] * 24, days + months, range(48), head="unique_id,ds,y")
    with pytest.raises(ValueError, match="24 rows, .* of 'b' from 2020-01-01 .*; forecast series of other frequencies"):
        read_file(save(text), Keys())


def test_row_names_are_left_out_and_told(save) -> None:
    content = read_file(save(lines(range(1, 13), HOURS, range(12), head=",date,y")), Keys())
    assert content.series[0].columns == ["y"] and content.said == ["the first column, which numbers the rows, left out"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines([1.5] * 9, [2] * 9, HOURS[:9], head="north,date"), "line 2: .* has 3 cells and line 1 2 headings"),
        (lines(HOURS, range(12), range(12), head="date,y,y"), "line 1: heading 'y' stands over columns 2 and 3"),
        (lines(HOURS, range(12), range(5, 17), head="date,y,"), "line 1: column 3 has no heading; give it one"),
        (lines(HOURS, range(12), head="date,y") + "\n\n2024-01-01\n", "line 16: .* this line has 1 cell and"),
        (lines(HOURS, ['"1,5"'] * 12, head="date,y"), "line 2: column 'y' is not numeric .*write a decimal point"),
        (lines(HOURS, ['"1,234.5"'] * 12, head="date,y"), "line 2: .*; write 1234.5 without commas"),
        (lines(HOURS, ["True"] * 12, head="date,y"), "column 'y' is not numeric, it is true or false"),
        (lines(HOURS, ["0x1F"] * 12, head="date,y"), "line 2: column 'y' is not numeric \\('0x1F'\\)"),
        (lines(HOURS, ["1_000"] * 12, head="date,y"), "line 2: column 'y' is not numeric \\('1_000'\\)"),
        (
            lines(HOURS, [*range(11), "-"], head="date,y"),
            "line 13: column 'y' is not numeric .* or leave the cell empty",
        ),
        (lines(HOURS, ["1e-200"] * 12, head="date,y"), "line 2: column 'y' holds 1e-200, which is too small"),
        (lines(HOURS, range(12), head="2023-12-31,7.5"), "line 1: '2023-12-31', '7.5' are values, no headings; write"),
        (
            "# a report\n" + lines(HOURS, range(12), head="date,y"),
            "line 2: .* and remove lines that belong to no table",
        ),
        (lines(HOURS, ["1\0"] * 12, head="date,y"), "line 2: a NUL byte"),
        ('date,y\n"2024-01-01,1\n2024-01-02,2\n', "line 2: not a readable csv"),
    ],
)
def test_what_could_be_anything_is_refused(save, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_file(save(text), Keys())


def test_lines_are_those_of_the_file(save) -> None:
    table = lines(HOURS, range(12), head="date,y").splitlines()
    table[6] = table[6].rsplit(",", 1)[0] + ",?"
    with pytest.raises(ValueError, match="line 9: column 'y' is not numeric"):
        read_file(save("\n".join([*table[:3], "", "", *table[3:]])), Keys())
    quoted = [table[0] + ",note", *(f'{row},"two\nlines"' for row in table[1:])]
    with pytest.raises(ValueError, match="line 12: column 'y' is not numeric"):
        read_file(save("\n".join(quoted)), Keys(targets=["y"]))


IDS = ["007", "0070", "7", "NA", "null", "1e5", "1.10", "nan", " x"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_ids_come_back_as_they_stand(tmp_path: Path, kind: str) -> None:
    table = pd.concat([pd.DataFrame({"unique_id": name, "ds": HOURS, "y": np.arange(12.0)}) for name in IDS])
    path = tmp_path / f"mine.{kind}"
    table.to_parquet(path) if kind == "parquet" else table.to_csv(path, index=False)
    assert [series.columns[0] for series in read_file(path, Keys()).series] == IDS


def test_filling_neither_merges_series_nor_invents_most_of_a_file(tmp_path: Path) -> None:
    table = pd.concat([pd.DataFrame({"date": HOURS, "site": i, "y": np.arange(12.0)}) for i in range(2)])
    table.to_csv(tmp_path / "mine.csv", index=False)
    for defects in ("refuse", "fill", "mask"):
        with pytest.raises(ValueError, match="name the column that tells the series apart in data.id_col") as caught:
            read_file(tmp_path / "mine.csv", Keys(defects=defects))
        assert "data.defects" not in str(caught.value)
    sparse = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=20, freq="7D"), "y": 1.0})
    sparse.to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(ValueError, match="nearly all gaps at 'D'; set data.freq"):
        read_file(tmp_path / "mine.csv", Keys(freq="D", defects="fill"))


def test_values_are_those_of_the_file_to_the_last_digit(tmp_path: Path) -> None:
    values = 6_779_547_109.782 + np.random.default_rng(0).normal(size=50)
    pd.DataFrame({"date": pd.date_range("2024-01-01", periods=50, freq="h"), "y": values}).to_csv(
        tmp_path / "mine.csv", index=False
    )
    np.testing.assert_array_equal(read_file(tmp_path / "mine.csv", Keys()).series[0].values[:, 0], values)


def test_objects_of_a_frame_are_numbers_where_they_are_written_as_such() -> None:
    frame = pd.DataFrame({"date": pd.to_datetime(HOURS), "y": [Decimal("0.10"), None, 2**70, *range(9)]}, dtype=object)
    frame["note"] = [[i] for i in range(12)]
    series = content_of(frame_table(frame, "date"), Keys(targets=["y"], defects="fill")).series[0]
    assert series.values[:4, 0].tolist() == [0.1, 0.1, 2.0**70, 0.0]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"y": [[1]] * 12}, r"row 1: column 'y' is not numeric \('\[1\]'\)"),
        ({"y": pd.Series([1.5, True] * 6, dtype=object)}, r"row 2: column 'y' is not numeric \('True'\)"),
        ({"y": np.full(12, 1 + 2j)}, "row 1: column 'y' is not numeric, it is of kind complex128"),
        ({"date": range(12)}, "'date' is the name of its index and of a column; rename one"),
        ({"y": ["1,5"] * 12}, r"row 1: column 'y' is not numeric \('1,5'\); .*read_csv with decimal=','"),
    ],
)
def test_what_a_frame_holds_instead_is_refused_in_one_line(frame: dict, message: str) -> None:
    index = pd.Index(pd.to_datetime(HOURS), name="date")
    with pytest.raises(ValueError, match=f"DataFrame.*{message}"):
        content_of(frame_table(pd.DataFrame(frame).set_index(index), "date"), Keys())


def test_what_pandas_makes_of_a_csv_is_read_as_the_csv_is(save) -> None:
    """Row names, a column without a heading, rows of separators alone; places stay those of the frame."""
    text = lines(range(12), HOURS, range(12), [""] * 12, head=",date,y,").replace("\n5,", "\n,,,\n5,")
    frame = pd.read_csv(io.StringIO(text))
    assert list(frame) == ["Unnamed: 0", "date", "y", "Unnamed: 3"]
    content = content_of(frame_table(frame, "date"), Keys())
    told = ["1 empty row left out", "the first column, which numbers the rows, left out"]
    assert content.said == [*told, "column 4 without heading or cells left out"]
    assert content.said == read_file(save(text), Keys()).said
    assert content.series[0].columns == ["y"] and len(content.series[0].values) == 12
    frame = frame.astype({"y": object})
    frame.loc[9, "y"] = "wrong"
    with pytest.raises(ValueError, match="DataFrame row 10: column 'y' is not numeric"):
        content_of(frame_table(frame, "date"), Keys())


def test_days_as_numbers_beside_an_empty_row_stay_days() -> None:
    days = pd.date_range("2024-01-01", periods=12).strftime("%Y%m%d")
    frame = pd.read_csv(io.StringIO(lines(days, range(12), head="date,y") + ",\n"))
    assert frame["date"].dtype == float
    content = content_of(frame_table(frame, "date"), Keys())
    assert content.series[0].freq == "D" and "1 empty row left out" in content.said
    with pytest.raises(ValueError, match="row 1: 0.5 is a number, not a time stamp"):
        content_of(frame_table(frame.dropna().assign(date=0.5), "date"), Keys())


def test_what_pandas_loses_of_a_csv_is_refused_in_one_line() -> None:
    short = pd.read_csv(io.StringIO(lines([1.5] * 12, [2] * 12, HOURS, head="north,date")))
    with pytest.raises(ValueError, match="DataFrame: its index holds numbers like 1.5 and has no name, .* too few"):
        frame_table(short, "date")
    countries = pd.read_csv(io.StringIO(lines(["NA"] * 12, HOURS, range(12), head="unique_id,ds,y")))
    with pytest.raises(ValueError, match="row 1: column 'unique_id' is empty; .*keep_default_na=False"):
        content_of(frame_table(countries, "ds"), Keys())
    parted = pd.DataFrame({"day": ["2024-01-01", None, "2024-01-01"], "hour": ["00:00", "01:00", "02:00"], "y": 1.0})
    with pytest.raises(ValueError, match="row 2: the time column 'day hour' is empty"):
        content_of(frame_table(parted, "day"), Keys(time_col=["day", "hour"]))
