"""Many variables over one regular clock: what a file becomes once it is read, or a generated sample."""

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Series:
    """V variables at T regular moments, and what is known beside them.

    Args:
        values: float32 [T, V], in the file's own units, every cell finite.
        columns: V names.
        stamps: int64 [T], nanoseconds since 1970; UTC where the file gives UTC offsets, else its own clock.
        freq: pandas frequency between stamps, e.g. `h` or `15min`.
        sha256: checksum of the decompressed file; empty for generated data.
        missing: bool [T, V], cells of `values` that stand in for nothing measured and count in no loss, scaler or
            metric; None where every cell counts.
        past: float32 [T, P], covariates known up to the moment of a forecast; None for none.
        future: float32 [T + F, K], covariates known F rows past the last value; None for none.
        repairs: what was mended while the file was read, in words; empty for nothing.
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


def stamps_after(stamps: np.ndarray, freq: str, count: int) -> np.ndarray:
    """The `count` stamps int64 that follow the last of `stamps`."""
    return pd.date_range(pd.Timestamp(stamps[-1]), periods=count + 1, freq=freq, unit="ns").asi8[1:]


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
    return Series(values.astype(np.float32), [f"series_{i}" for i in range(variables)], stamps, "h")
