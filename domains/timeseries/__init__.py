"""Long-horizon forecasting of many series at once (Titans section 5.6, in SiMBA's shell)."""

from domains.timeseries.data import TimeSeriesData
from domains.timeseries.forecaster import Forecaster
from domains.timeseries.head import ForecastHead

__all__ = ["ForecastHead", "Forecaster", "TimeSeriesData"]
