"""The DataModule of forecasting: a benchmark set, a user's own file, or a generated series."""

from collections.abc import Iterator, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities import rank_zero_warn
from pandas import DataFrame
from torch.utils.data import DataLoader

from app.data import DomainData, ShardedBatches
from app.errors import UserError
from data_prep.files import data_root
from data_prep.timeseries import BARE_FREQ, BARE_START, BENCHMARKS, fetch, local_file, stem, verify
from domains.timeseries.backtest import fold_ends, score
from domains.timeseries.clock import Policy
from domains.timeseries.marks import Mark, calendar_marks
from domains.timeseries.published import published_scores
from domains.timeseries.reader import read_bare, read_series
from domains.timeseries.series import Series, sample_series, stamps_after
from domains.timeseries.windows import Covariates, Windows, future_window, split_rows


class TimeSeriesData(DomainData):
    """Windows of one multivariate series, by the standard long-horizon protocol: stride 1, every window scored.

    A batch is look-back [B, L, V] and target [B, H, V] in the file's own units, and the stamp [B] (int64 nanoseconds)
    of the last row of each look-back; a target that nobody measured is NaN. With covariates or calendar marks a fourth
    entry follows, `windows.Covariates`. Batches are gathered on the device, from the one copy of the series there.
    `input_size` is V, `output_size` H, `past_size` and `future_size` the widths of the two kinds of covariates.

    Args:
        dataset: benchmark set, found as TSLib's `NAME.csv[.gz]`, or as `electricity.txt.gz` and `traffic.txt.gz`
            without header and dates, in `timeseries` of the data folder (TITANS_DATA or `data`).
        look_back: rows L that the model sees.
        horizon: rows H that it forecasts.
        batch_size: windows per step, over all devices together.
        source: `auto` uses the local file, else downloads it, else generates a series; `file` and `sample` insist.
        file: a csv, csv.gz or parquet of your own, used in place of `dataset` and split 0.7 / 0.1 / 0.2.
        time_col: time column of `file`.
        targets: columns of `file` to forecast; None takes every column that is nothing else.
        id_col: column that names the series, where `file` has one row per series and moment; None for a file with one
            column per series, or with columns `unique_id`, `ds` and `y`.
        past_covariates: columns of `file` known up to the moment of a forecast.
        future_covariates: columns of `file` known beforehand; to forecast its future, append rows that hold them alone.
        freq: pandas frequency of the rows of `file`; None infers it.
        sentinel: number that stands for an empty cell of `file`, such as -9999.
        defects: what to do about gaps, empty cells, repeated and unsorted stamps of `file`: `refuse` them, `fill` them
            with the last value, or fill and `mask` them, which keeps them out of every loss and metric.
        marks: calendar marks for the model to see: `minute`, `hour`, `weekday`, `day` and `yearday`.
        predict: what `predict` forecasts: the windows of the test part, or the horizon past the end of the file.
        seed: of the generated series.
    """

    def __init__(
        self,
        dataset: str = "ETTh1",
        look_back: int = 96,
        horizon: int = 96,
        batch_size: int = 32,
        source: Literal["auto", "file", "sample"] = "auto",
        file: str | None = None,
        time_col: str = "date",
        targets: Sequence[str] | None = None,
        id_col: str | None = None,
        past_covariates: Sequence[str] = (),
        future_covariates: Sequence[str] = (),
        freq: str | None = None,
        sentinel: float | None = None,
        defects: Policy = "refuse",
        marks: Sequence[Mark] = (),
        predict: Literal["test", "future"] = "test",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if file is None and dataset not in BENCHMARKS:
            raise ValueError(f"data.dataset {dataset!r} is unknown; choose {', '.join(BENCHMARKS)} or set data.file")
        if file is not None and source == "sample":
            raise ValueError("data.file and data.source: sample exclude each other; drop one")
        if min(look_back, horizon, batch_size) < 1:
            raise ValueError("data.look_back, data.horizon and data.batch_size must be at least 1")
        self.reading = {
            "targets": targets,
            "id_col": id_col,
            "past_covariates": tuple(past_covariates),
            "future_covariates": tuple(future_covariates),
            "freq": freq,
            "sentinel": sentinel,
            "defects": defects,
        }
        altered = [key for key, value in self.reading.items() if value not in (None, (), "refuse")]
        if file is None and altered:  # a benchmark is read as everybody reads it
            raise ValueError(f"data.{altered[0]} belongs to a file of your own; set data.file or drop it")
        self.benchmark = None if file else BENCHMARKS[dataset]
        self.name = Path(file).name.split(".")[0] if file else dataset
        self.look_back, self.horizon, self.batch_size = look_back, horizon, batch_size
        self.source, self.file, self.predict, self.seed = source, file, predict, seed
        self.time_col = time_col if file else "date"
        self.marks = tuple(marks)
        self.past_size = len(past_covariates)
        self.future_size = len(future_covariates) + 2 * len(self.marks)
        self.predicted = horizon  # rows that `predict` forecasts, see `extend`
        # a fold of a backtest ends its parts elsewhere and skips from origin to origin
        self.ends, self.every = self.benchmark.ends if self.benchmark else None, 1
        self.failure = ""  # why a download did not work

    @cached_property
    def series(self) -> Series:
        """The whole series, read and checked, or generated."""
        if self.file is not None:
            series = read_series(Path(self.file), self.time_col, **self.reading)
            if series.repairs:
                done = "filled" if self.reading["defects"] == "fill" else "filled and kept out of losses and metrics"
                rank_zero_warn(f"{self.file}: {series.repairs}; {done}")
            return series
        path = None if self.source == "sample" else local_file(self.name)
        if path is not None:
            verify(self.name, path)
            if path.name.endswith(".txt.gz"):
                return read_bare(path, BARE_START, BARE_FREQ)
            return read_series(path, regular=self.benchmark.regular)
        if self.source == "file":
            raise FileNotFoundError(
                f"{data_root() / 'timeseries' / stem(self.name)}.csv[.gz]: no such file; run `python -m data_prep "
                f"timeseries --sets {self.name}` or point TITANS_DATA to the folder that holds timeseries/"
            )
        if self.source == "auto":
            rank_zero_warn(
                f"\n{'*' * 100}\n{self.name} is not in {data_root() / 'timeseries'} and could not be downloaded "
                f"({self.failure or 'not tried'}).\nA GENERATED SAMPLE SERIES TAKES ITS PLACE: "
                f"no score of this run says anything about {self.name}.\n{'*' * 100}"
            )
        rows = self.benchmark.ends[2] if self.benchmark.ends else 14400
        return sample_series(self.benchmark.variables, rows, self.seed)

    @property
    def input_size(self) -> int:
        """Variables V; a file of your own is read to know it."""
        return self.benchmark.variables if self.benchmark else len(self.series.columns)

    @property
    def output_size(self) -> int:
        """Rows forecast, H."""
        return self.horizon

    def prepare_data(self) -> None:
        """Download a benchmark that is not there (Lightning calls this in one process of a machine)."""
        if self.source == "auto" and self.benchmark is not None:
            try:
                fetch(self.name, retries=1)
            except OSError as err:  # no network, or a data folder that cannot be written
                self.failure = str(err)

    def setup(self, stage: str | None = None) -> None:
        """Put the series on the device and cut it into the windows of its parts; the future needs its end alone."""
        series, ahead = self.series, stage == "predict" and self.predict == "future"
        horizon = self.predicted if stage == "predict" else self.horizon
        values, past, future = (torch.tensor(x) for x in (series.values, self._past(), self._future(ahead)))
        truth = None if series.missing is None else values.masked_fill(torch.tensor(series.missing), torch.nan)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        here = values.to(device), torch.tensor(series.stamps).to(device)  # once: every window is a view of it
        beside = None if truth is None else truth.to(device), past.to(device), future.to(device)
        if ahead:
            self.windows = {"future": future_window(*here, self.look_back, horizon, *beside[1:])}
            return
        borders = split_rows(len(values), self.look_back, horizon, self.ends)
        parts = {part: slice(*rows) for part, rows in borders.items()}
        self.train_values = (values if truth is None else truth)[parts["train"]]  # [T, V], all that a scaler may see
        self.train_covariates = Covariates(past[parts["train"]], future[parts["train"]])  # [T, P] and [T, K]
        unseen = [name for name, x in zip(series.columns, self.train_values.T, strict=True) if x.isnan().all()]
        if unseen:
            raise ValueError(f"{self.file}: {unseen} have no value in the train rows; leave them out of the file")
        self.windows = {
            part: Windows(
                *(x[rows] for x in here),
                self.look_back,
                horizon,
                *(x if x is None else x[rows] for x in beside),
                every=self.every if part == "test" else 1,
            )
            for part, rows in parts.items()
        }

    def _past(self) -> np.ndarray:
        """Covariates known up to the moment of a forecast, float32 [T, P]."""
        return np.zeros((len(self.series.stamps), 0), np.float32) if self.series.past is None else self.series.past

    def _future(self, ahead: bool) -> np.ndarray:
        """What is known beforehand, float32 [T, K], or [T + H, K] if the forecast goes `ahead` of the file."""
        series, stamps = self.series, self.series.stamps
        if ahead:
            stamps = np.concatenate([stamps, stamps_after(stamps, series.freq, self.predicted)])
        marks = calendar_marks(stamps, self.marks)
        if series.future is None:
            return marks
        if len(series.future) < len(stamps):
            raise ValueError(
                f"{self.file}: {list(self.reading['future_covariates'])} are known for "
                f"{len(series.future) - len(series.stamps)} rows past the last value, but a horizon of "
                f"{self.predicted} needs them up to {pd.Timestamp(stamps[-1])}; append rows that hold them and no "
                "other value"
            )
        return np.concatenate([series.future[: len(stamps)], marks], axis=1)

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
        return self._loader(self.windows["test"])

    def predict_dataloader(self) -> DataLoader:
        """The test windows, or the one window at the end of the file."""
        return self._loader(self.windows["future" if self.predict == "future" else "test"])

    def extend(self, horizon: int) -> None:
        """Forecast `horizon` rows in `predict`; past those that the model was trained for, it rolls forward."""
        if horizon < 1:
            raise UserError(f"predict --horizon is {horizon}; give at least 1 row")
        self.predicted = horizon

    def folds(self, origins: int, stride: int | None, refit: int) -> Iterator["TimeSeriesData"]:
        """Folds whose test part is the windows at their origins; see `fold_ends`."""
        borders = split_rows(len(self.series.values), self.look_back, self.horizon, self.ends)
        ends = tuple(end for _, end in borders.values())
        stride = self.horizon if stride is None else stride
        for fold_end in fold_ends(ends, self.horizon, origins, stride, refit):
            fold = copy(self)
            fold.ends, fold.every, fold.predict = fold_end, stride, "test"
            yield fold

    def score(self, predictions: DataFrame) -> DataFrame:
        """MSE, MAE, MASE, sMAPE and WAPE, beside naive and seasonal naive; see `backtest.score`."""
        return score(predictions, self.series, self.train_values.numpy())

    def provenance(self) -> dict[str, object]:
        """Name (`sample` for a generated series), checksum, and sizes; to be asked after `setup`."""
        return {
            "data": self.name if self.series.sha256 else "sample",
            "sha256": self.series.sha256,
            "variables": len(self.series.columns),
            "look_back": self.look_back,
            "horizon": self.horizon,
            **({"repairs": self.series.repairs} if self.series.repairs else {}),
            **{f"{part}_windows": len(windows) for part, windows in self.windows.items()},
        }

    def published(self) -> dict[str, dict[str, float]]:
        """Published scores of the same benchmark, look-back and horizon; none for a file of your own or a sample."""
        return published_scores(str(self.provenance()["data"]), self.look_back, self.horizon)
