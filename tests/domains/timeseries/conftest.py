"""Small series on disk, and the DataModule and head over them."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries.series import Series, sample_series


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Series], Path]:
    """Writes the csv that `read_series` would read back as the series it is given."""

    def write(series: Series) -> Path:
        path = tmp_path / "mine.csv"
        table = pd.DataFrame(series.values, columns=series.columns)
        table.insert(0, "date", pd.DatetimeIndex(series.stamps.astype("datetime64[ns]")))
        table.to_csv(path, index=False)
        return path

    return write


@pytest.fixture
def series() -> Series:
    return sample_series(variables=3, rows=400, seed=1)


@pytest.fixture
def csv(write: Callable[[Series], Path], series: Series) -> Path:
    return write(series)


@pytest.fixture
def data(csv: Path) -> TimeSeriesData:
    data = TimeSeriesData(file=str(csv), look_back=24, horizon=12, batch_size=16, predict="test")
    data.setup()
    return data


@pytest.fixture
def head(data: TimeSeriesData) -> ForecastHead:
    head = ForecastHead(dim=16, input_size=3, output_size=12, look_back=24)
    head.fit_to(data)
    return head
