"""The DataModule of forecasting: a benchmark set, a user's own file, or a generated series."""

from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from app.data import DomainData, ShardedBatches
from data_prep.files import data_root
from data_prep.timeseries import BENCHMARKS, fetch, local_file
from domains.timeseries.published import published_scores
from domains.timeseries.series import Series, read_series, sample_series
from domains.timeseries.windows import Windows, future_window, split_rows


class TimeSeriesData(DomainData):
    """Windows of one multivariate series, by the standard long-horizon protocol: stride 1, every window scored.

    A batch is look-back [B, L, V] and target [B, H, V] in the file's own units, and the stamp [B] (int64 nanoseconds)
    of the last row of each look-back. `input_size` is V and `output_size` is H.

    Args:
        dataset: benchmark set, found as `timeseries/NAME.csv` or `.csv.gz` in the data folder (TITANS_DATA or `data`).
        look_back: rows L that the model sees.
        horizon: rows H that it forecasts.
        batch_size: windows per step, over all devices together.
        source: `auto` uses the local file, else downloads it, else generates a series; `file` and `sample` insist.
        file: a csv or csv.gz of your own, used in place of `dataset` and split 0.7 / 0.1 / 0.2.
        time_col: time column of `file`.
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
        self.benchmark = None if file else BENCHMARKS[dataset]
        self.name = Path(file).name.split(".")[0] if file else dataset
        self.look_back, self.horizon, self.batch_size = look_back, horizon, batch_size
        self.source, self.file, self.predict, self.seed = source, file, predict, seed
        self.time_col = time_col if file else "date"
        self.failure = ""  # why a download did not work

    @cached_property
    def series(self) -> Series:
        """The whole series, read and checked, or generated."""
        if self.file is not None:
            return read_series(Path(self.file), self.time_col)
        path = None if self.source == "sample" else local_file(self.name)
        if path is not None:
            return read_series(path, self.time_col, self.benchmark.sha256, self.benchmark.regular)
        if self.source == "file":
            raise FileNotFoundError(
                f"{data_root() / 'timeseries' / self.name}.csv[.gz]: no such file; run `python -m data_prep timeseries "
                f"--sets {self.name}` or point TITANS_DATA to the folder that holds timeseries/"
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
        """Cut the series into the windows of its parts; to forecast the future, only its end is needed."""
        values, stamps = torch.from_numpy(self.series.values), torch.from_numpy(self.series.stamps)
        if stage == "predict" and self.predict == "future":
            self.windows = {"future": future_window(values, stamps, self.look_back, self.horizon)}
            return
        ends = self.benchmark.ends if self.benchmark else None
        borders = split_rows(len(values), self.look_back, self.horizon, ends)
        parts = {part: slice(*rows) for part, rows in borders.items()}
        self.train_values = values[parts["train"]]  # [T, V], all that a scaler may see
        self.windows = {
            part: Windows(values[rows], stamps[rows], self.look_back, self.horizon) for part, rows in parts.items()
        }

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

    def provenance(self) -> dict[str, object]:
        """Name (`sample` for a generated series), checksum, and sizes; to be asked after `setup`."""
        return {
            "data": self.name if self.series.sha256 else "sample",
            "sha256": self.series.sha256,
            "variables": len(self.series.columns),
            "look_back": self.look_back,
            "horizon": self.horizon,
            **{f"{part}_windows": len(windows) for part, windows in self.windows.items()},
        }

    def published(self) -> dict[str, dict[str, float]]:
        """Published scores of the same benchmark, look-back and horizon; none for a file of your own or a sample."""
        return published_scores(str(self.provenance()["data"]), self.look_back, self.horizon)
