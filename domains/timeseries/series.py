"""Variables over one regular clock: what a file becomes once it is read, or a generated sample."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from domains.timeseries.clock import grid_after


@dataclass(frozen=True)
class Series:
    """V variables at T regular moments, and what is known beside them.

    A file with one row per moment becomes one series of V variables, a panel one series of one variable for each of its
    ids, with a start and an end of its own.

    Args:
        values: float64 [T, V], in the file's own units, every cell finite.
        columns: V names.
        stamps: int64 [T], nanoseconds since 1970: UTC where the file has a time zone, else its own clock.
        freq: frequency between stamps, e.g. `h`, `15min` or `M@15` (see `clock`).
        sha256: checksum of the decompressed file; empty for generated data.
        missing: bool [T, V], cells of `values` that stand in for nothing measured and count in no loss, scaler or
            metric; None where every cell counts.
        past: float64 [T, P], covariates known up to the moment of a forecast; None for none.
        future: float64 [T + F, K], covariates known F rows past the last value; None for none.
        repairs: what was mended while the file was read, in words; empty for nothing.
        zone: of the stamps: empty for a clock that names none, else `Europe/Berlin`, `+01:00` or `UTC`; `integer` where
            the file counts instead (a stamp is then the number itself).
    """

    values: np.ndarray
    columns: list[str]
    stamps: np.ndarray
    freq: str
    sha256: str = ""
    missing: np.ndarray | None = None
    past: np.ndarray | None = None
    future: np.ndarray | None = None
    repairs: str = ""
    zone: str = ""

    @property
    def truth(self) -> np.ndarray:
        """`values`, NaN where nothing was measured."""
        return self.values if self.missing is None else np.where(self.missing, np.nan, self.values)


def stamps_after(stamps: np.ndarray, freq: str, count: int, zone: str = "") -> np.ndarray:
    """The `count` stamps int64 that follow the last of `stamps`."""
    return grid_after(int(stamps[-1]), freq, count, zone)


def sample_series(variables: int = 7, rows: int = 14400, seed: int = 0) -> Series:
    """A generated hourly series with daily and weekly seasons, a slow drift and noise; the same for the same seed."""
    random = np.random.default_rng(seed)
    hours = np.arange(rows)[:, None]

    def season(period: int, harmonics: int) -> np.ndarray:
        """[rows, variables]: a periodic curve of its own for each variable."""
        order = np.arange(1, harmonics + 1)[:, None]
        height, phase = random.normal(size=(2, harmonics, variables)) / order
        angle = 2 * np.pi * hours / period
        return sum(h * np.sin(k * angle + np.pi * p) for k, h, p in zip(order, height, phase, strict=True))

    drift = random.normal(size=(rows, variables)).cumsum(0) / np.sqrt(rows)
    noise = random.normal(size=(rows, variables))
    values = 10 + 2 * season(24, 3) + season(168, 2) + drift + 0.5 * noise
    stamps = pd.date_range("2020-01-01", periods=rows, freq="h", unit="ns").asi8
    return Series(values, [f"series_{i}" for i in range(variables)], stamps, "h")
