"""The DataModule of forecasting: a benchmark set, a user's own file, or a generated series."""

import math
from collections.abc import Iterator, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from matplotlib.figure import Figure
from pandas import DataFrame, DatetimeIndex, PeriodIndex
from torch import Tensor
from torch.utils.data import DataLoader

from app.data import DomainData, ShardedBatches
from app.errors import UserError
from app.sample import Source
from data_prep.timeseries import BENCHMARKS, fetch
from domains.timeseries.backtest import fold_ends, score
from domains.timeseries.columns import Keys
from domains.timeseries.marks import Mark
from domains.timeseries.metrics import season_length
from domains.timeseries.naive import naive_scores
from domains.timeseries.parts import starts_by_part
from domains.timeseries.published import published_scores
from domains.timeseries.reader import Content, content_of, read_file
from domains.timeseries.report import future_figure
from domains.timeseries.rows import rows_of
from domains.timeseries.series import Series
from domains.timeseries.sets import published_series
from domains.timeseries.table import FRAME
from domains.timeseries.table_file import frame_table
from domains.timeseries.understood import ended, understood
from domains.timeseries.windows import (
    Batch,
    Covariates,
    Rows,
    Windows,
    joined,
    split_ends,
    windows_of,
)
from memory.bounds import check_bounds

USUAL = 96  # rows of look-back where the file is long enough
ROWS = (1, 2**20)  # of a window: weights for more, or forecasts as far ahead, fit in no memory
BOUNDS = {"look_back": ROWS, "horizon": ROWS, "batch_size": (1, math.inf), "predict_rows": ROWS}


class TimeSeriesData(DomainData):
    """Windows of one multivariate series or of a panel, by the standard protocol: stride 1, every window scored.

    A batch is a `windows.Batch`, gathered on the device from the one copy of the rows there. Of a multivariate series a
    window holds all variables, of a panel one series, so that a batch samples series and moments alike.
    `input_size` is the number of variables or series, `output_size` H, `past_size` and `future_size` the widths of the
    two kinds of covariates.

    Args:
        dataset: benchmark set, found as TSLib's `NAME.csv[.gz]`, or as `electricity.txt.gz` and `traffic.txt.gz`
            without header and dates, in `timeseries` of the data folder (TITANS_DATA or `data`).
        look_back: rows L that the model sees; None takes 96, or as many as leave the train part as many windows.
        horizon: rows H that it forecasts.
        batch_size: windows per step, over all devices together.
        source: `auto` uses the local file, else downloads it, else generates a series; `file` and `sample` insist.
        file: a csv, csv.gz or parquet of your own, used in place of `dataset`.
        val_rows: last rows before the test part, of each series, that validate; None takes a tenth, at least the
            horizon. 0 trains on them as well: validation then repeats the end of the train part.
        test_rows: last rows of each series that test; None takes a fifth, at least the horizon; 0 trains up to the end.
        season: rows of a season, which the seasonal naive forecast repeats and MASE is scaled by; None takes a day, a
            week of daily rows, or a year of weekly, monthly and quarterly ones.
        marks: calendar marks for the model to see: `minute`, `hour`, `weekday`, `day` and `yearday`.
        predict: what `predict` forecasts: the horizon past the end of the file, or the windows of the test part.
        predict_rows: rows that `predict` forecasts in place of the horizon; past those that the model was trained for,
            forecasts are fed back as if they had been observed.
        seed: of the generated series.
        keys: what the columns of `file` are and how its stamps are read, see `Keys`.
    """

    def __init__(
        self,
        dataset: str = "ETTh1",
        look_back: int | None = 96,
        horizon: int = 96,
        batch_size: int = 32,
        source: Source = "auto",
        file: str | None = None,
        val_rows: int | None = None,
        test_rows: int | None = None,
        season: int | None = None,
        marks: Sequence[Mark] = (),
        predict: Literal["future", "test"] = "future",
        predict_rows: int | None = None,
        seed: int = 0,
        **keys: Any,
    ) -> None:
        super().__init__()
        if file is None and dataset not in BENCHMARKS:
            raise ValueError(f"data.dataset {dataset!r} is unknown; choose {', '.join(BENCHMARKS)} or set data.file")
        if file is not None and source == "sample":
            raise ValueError("data.file and data.source: sample exclude each other; drop one")
        sizes = {"look_back": look_back, "horizon": horizon, "batch_size": batch_size, "predict_rows": predict_rows}
        check_bounds("data", sizes, BOUNDS)
        if min(val_rows or 0, test_rows or 0) < 0:
            raise ValueError("data.val_rows and data.test_rows are rows, 0 or more, or null for a share of the file")
        self.keys = Keys(**keys)
        chosen = {**vars(self.keys), "val_rows": val_rows, "test_rows": test_rows}
        usual = {**vars(Keys(self.keys.time_col)), "val_rows": None, "test_rows": None}
        altered = [key for key, value in chosen.items() if value != usual[key]]
        if file is None and altered:  # a benchmark is read as everybody reads it
            raise ValueError(f"data.{altered[0]} belongs to a file of your own; set data.file or drop it")
        self.benchmark = None if file else BENCHMARKS[dataset]
        self.name = Path(file).name.split(".")[0] if file else dataset
        self.wanted = look_back
        self.horizon = horizon
        self.batch_size = batch_size
        self.source = source
        self.file = file
        self.predict = predict
        self.seed = seed
        if season is not None and season < 1:
            raise ValueError(f"data.season is {season}; give the rows of a season, 1 for none, or null")
        self.val_rows = val_rows
        self.test_rows = test_rows
        self.wanted_season = season
        self.marks = tuple(marks)
        self.past_size = len(self.keys.past_covariates)
        self.predicted = horizon if predict_rows is None else predict_rows
        # a fold of a backtest ends its parts elsewhere and skips from origin to origin
        self.fold: list[tuple[int, int, int] | None] | None = None
        self.every = 1
        self.frame: DataFrame | None = None  # in the place of a file, see `of`
        self.windows: dict[str, Windows] = {}  # of each part, after `setup`
        self.failure = ""  # why a download did not work

    @classmethod
    def of(cls, frame: DataFrame, **keys: Any) -> Self:
        """The data of a pandas frame, as those of a file with the same keys.

        Without a key `time_col` the time is the index where that holds times, else the only column that does.
        """
        if keys.get("time_col") is None:
            index = isinstance(frame.index, DatetimeIndex | PeriodIndex)
            times = [frame.index.name or "date"] if index else [*frame.select_dtypes(["datetime", "datetimetz"])]
            keys = {**keys, "time_col": str(times[0]) if len(times) == 1 else "date"}
        data = cls(**{**keys, "file": FRAME})
        data.frame = frame
        return data

    @cached_property
    def content(self) -> Content:
        """All that the file holds, read and checked, or a generated series."""
        if self.file is not None:
            content = self._content()
            repairs = content.series[0].repairs
            if repairs:
                done = "filled" if self.keys.defects == "fill" else "filled and kept out of losses and metrics"
                rank_zero_warn(f"{self.file}: {repairs}; {done}")
            return content
        return Content([published_series(self.name, self.source, self.seed, self.failure)], False, [])

    def _content(self) -> Content:
        if self.frame is not None:
            return content_of(frame_table(self.frame, self.keys.times[0]), self.keys)
        if self.file == FRAME:
            raise ValueError("this model was fitted to a DataFrame; name a file in its place with data.file")
        return read_file(Path(self.file), self.keys)

    @property
    def series(self) -> Series:
        """The one series of all variables, or the first of a panel."""
        return self.content.series[0]

    @property
    def panel(self) -> bool:
        """Whether each series stands alone, with a start and an end of its own; a file is read to know it."""
        return self.benchmark is None and self.content.panel

    @property
    def columns(self) -> list[str]:
        """Names of the variables, or of the series of a panel."""
        return [name for series in self.content.series for name in series.columns]

    @property
    def freq(self) -> str:
        """Of the rows, see `clock`."""
        return self.series.freq

    @property
    def season(self) -> int:
        """Rows of a season; 1 for none."""
        return self.wanted_season or season_length(self.freq)

    @property
    def zone(self) -> str:
        """Of the stamps, see `Series`."""
        return self.series.zone

    @property
    def input_size(self) -> int:
        """Variables V, or series of a panel; a file of your own is read to know it."""
        return self.benchmark.variables if self.benchmark else len(self.columns)

    @property
    def output_size(self) -> int:
        """Rows forecast, H."""
        return self.horizon

    @property
    def input_names(self) -> list[str]:
        """What the covariates are, past ones first, then those known beforehand, then calendar marks."""
        beside = [*self.keys.past_covariates, *(self.content.future_names if self.file else ())]
        return beside + list(self.marks)

    @property
    def future_size(self) -> int:
        """Covariates and marks known beforehand, K."""
        names = self.content.future_names if self.keys.static_covariates else self.keys.future_covariates
        return len(names) + 2 * len(self.marks)

    @cached_property
    def look_back(self) -> int:
        """Rows L that the model sees: as many as are asked for, else 96 or what leaves a short file enough windows."""
        if self.wanted is not None or self.benchmark:
            return self.wanted or USUAL
        series = sorted(self.content.series, key=lambda one: len(one.stamps))[len(self.content.series) // 2]
        train = split_ends(len(series.stamps), self.horizon, self.val_rows, self.test_rows)[0]
        rows = max(min((train - self.horizon) // 2, USUAL), 1)
        return rows - rows % self.season if rows >= self.season else rows

    def prepare_data(self) -> None:
        """Download a benchmark that is not there (Lightning calls this in one process of a machine)."""
        if self.source == "auto" and self.benchmark is not None:
            try:
                fetch(self.name, retries=1)
            except OSError as err:  # no network, or a data folder that cannot be written
                self.failure = str(err)

    def setup(self, stage: str | None = None) -> None:
        """Put the rows on the device and cut them into the windows of their parts; the future needs their end alone."""
        ahead = stage == "predict" and self.predict == "future"
        horizon = self.predicted if stage == "predict" else self.horizon
        parts = [self._rows(series, horizon if ahead else 0) for series in self.content.series]
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        rows = Rows(*(part.to(device) for part in joined(parts)))  # once: every window is gathered from it
        lengths = [len(series.values) + horizon * ahead for series in self.content.series]
        ahead_of = {"recent": self.horizon}  # intervals learn from forecasts of the trained horizon, whatever is asked
        self.windows = {
            name: windows_of(rows, lengths, starts, self.look_back, ahead_of.get(name, horizon), self.panel)
            for name, starts in starts_by_part(self, horizon, ahead).items()
        }
        if ahead:
            if self.panel and (told := ended(self)):
                rank_zero_warn(f"{self.file}: {told}")
            return
        unseen = [name for name, x in zip(self.columns, self.scale()[0], strict=True) if x.isnan()]
        if unseen:
            raise ValueError(f"{self.file}: {unseen} have no value in the train rows; leave them out of the file")
        if stage == "fit" and self.file is not None and self.fold is None:  # of a backtest it is told once
            rank_zero_only(print)(understood(self))

    def ends(self, series: Series) -> tuple[int, int, int]:
        """Rows at which train, validation and test of a series end."""
        if self.benchmark and self.benchmark.ends:
            if len(series.values) < self.benchmark.ends[2]:
                raise ValueError(
                    f"the series has {len(series.values)} rows but its protocol {self.benchmark.ends[2]}; the file is "
                    "truncated: fetch it again"
                )
            return self.benchmark.ends
        return split_ends(len(series.values), self.horizon, self.val_rows, self.test_rows)

    def _rows(self, series: Series, beyond: int) -> Rows:
        """The rows of one series, and as many `beyond` its end; see `rows_of`."""
        try:
            return rows_of(series, beyond, self.marks, ahead=bool(self.keys.future_covariates))
        except ValueError as err:
            raise ValueError(f"{self.file}: {err}") from err

    def train_rows(self) -> list[slice]:
        """The rows of each series that its scaler may see: its train part, or its first look-back where it has none."""
        ends = [self.ends(series) for series in self.content.series] if self.fold is None else self.fold
        return [slice(0, max(end[0] if end else 0, self.look_back)) for end in ends]

    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and population spread of each variable or series over its train rows, float64; a constant's is 1."""
        means = []
        spreads = []
        for series, rows in zip(self.content.series, self.train_rows(), strict=True):
            x = torch.tensor(series.truth[rows])
            mean = x.nanmean(0)
            constant = x.nan_to_num(-torch.inf).amax(0) == x.nan_to_num(torch.inf).amin(0)  # becomes zero, not NaN
            means.append(mean)
            spreads.append((x - mean).square().nanmean(0).sqrt().masked_fill(constant, 1.0))
        return torch.cat(means), torch.cat(spreads)

    def train_covariates(self) -> Covariates:
        """What is known beside the train rows of all series, [R, P] and [R, K]."""
        parts = zip(self.content.series, self.train_rows(), strict=True)
        known = [(self._rows(series, 0), rows) for series, rows in parts]
        kinds = Covariates._fields  # rows have them by the same names
        return Covariates(*(torch.cat([getattr(every, kind)[rows] for every, rows in known]) for kind in kinds))

    def recent_batches(self) -> list[Batch]:
        """Before the future is forecast: the windows after the validation part whose truth is known, at most 1,024 of
        each series.
        """
        windows = self.windows.get("recent", ())
        return list(self._loader(windows)) if len(windows) else []

    def _loader(self, windows: Windows, training: bool = False) -> DataLoader:
        batches = ShardedBatches(windows, self.batch_size, training)
        return DataLoader(windows, sampler=batches, batch_size=None)  # one indexing operation gathers a whole batch

    def train_dataloader(self) -> DataLoader:
        """Train windows, shuffled anew each epoch; what does not fill a batch waits for a later epoch."""
        return self._loader(self.windows["train"], training=True)

    def val_dataloader(self) -> DataLoader:
        """Every validation window, in order."""
        return self._loader(self.windows["val"])

    def test_dataloader(self) -> DataLoader:
        """Every test window, in order."""
        if not len(self.windows["test"]):
            raise UserError("data.test_rows is 0, so there is nothing to test; give rows, or `predict` the future")
        return self._loader(self.windows["test"])

    def predict_dataloader(self) -> DataLoader:
        """The test windows, or the one at the end of each series."""
        return self._loader(self.windows["future"]) if self.predict == "future" else self.test_dataloader()

    def folds(self, origins: int, stride: int | None, refit: int) -> Iterator["TimeSeriesData"]:
        """Folds whose test part is the windows at their origins; see `fold_ends`."""
        stride = self.horizon if stride is None else stride
        ends_by_fold = []
        error = None
        for series in self.content.series:
            try:
                ends_by_fold.append(fold_ends(self.ends(series), self.horizon, origins, stride, refit))
            except ValueError as err:  # of a panel, one long enough is enough
                ends_by_fold.append(None)
                error = err
        if all(ends is None for ends in ends_by_fold):
            raise error
        left = [
            series.columns[0] for series, ends in zip(self.content.series, ends_by_fold, strict=True) if ends is None
        ]
        if left:
            rank_zero_warn(f"backtest leaves out {len(left)} series that are too short: {', '.join(left[:9])}")
        for i in range(max(len(ends) for ends in ends_by_fold if ends)):
            fold = copy(self)
            fold.fold = [ends and ends[i] for ends in ends_by_fold]
            fold.every = stride
            fold.predict = "test"
            yield fold

    def score(self, predictions: DataFrame) -> DataFrame:
        """MSE, MAE, MASE, sMAPE and WAPE, beside naive and seasonal naive; see `backtest.score`."""
        return score(predictions, self.content.series, self.train_rows(), self.season)

    def picture(self, predictions: DataFrame) -> Figure:
        """History, forecasts and intervals of the first series, see `future_figure`."""
        return future_figure(self.content.series, predictions, 2 * self.look_back)

    def provenance(self) -> dict[str, object]:
        """Name (`sample` for a generated series), checksum, and sizes; to be asked after `setup`."""
        return {
            "data": self.name if self.series.sha256 else "sample",
            "sha256": self.series.sha256,
            "series" if self.panel else "variables": len(self.columns),
            "look_back": self.look_back,
            "horizon": self.horizon,
            **({"repairs": self.series.repairs} if self.series.repairs else {}),
            **{f"{part}_windows": len(windows) for part, windows in self.windows.items()},
        }

    def simple(self) -> dict[str, dict[str, float]]:
        """Test scores of naive and seasonal naive; the tables of benchmarks have theirs beside the published ones."""
        return {} if self.benchmark else naive_scores(self)

    def published(self) -> dict[str, dict[str, float]]:
        """Published scores of the same benchmark, look-back and horizon; none for a file of your own or a sample."""
        return published_scores(str(self.provenance()["data"]), self.look_back, self.horizon)
