"""How often intervals hold the truth, by series and by step, and how wide they are:

    python -m benchmarks.coverage --sets ETTh1,ETTh2,ETTm1,ETTm2,Weather --horizons 96

The forecaster is the closed-form linear map of the train windows, so that a set takes a minute or two on two cores; the
intervals are those of every forecast: calibrated on the validation part, then moved by the errors of the test part as
their truths become known. A set is a benchmark, a file of the data folder (`electricity_sub7`), or a panel: a file of
the Monash archive there (`electricity_weekly`, every series of its own), or `generated`.
"""

import argparse
import gzip
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import pandas as pd
import torch

from app.versions import device_name
from benchmarks.shared.rows import Row, command_line, write
from data_prep.files import data_root
from data_prep.timeseries import BENCHMARKS
from domains.timeseries import ForecastHead, TimeSeriesData

LEVEL = 0.9
NEAR = "<= 0.03"  # how far from its level a coverage may be
PANEL = {"look_back": 52, "horizon": 8, "val_rows": 26, "test_rows": 26}


def measure(data: TimeSeriesData) -> dict[str, torch.Tensor]:
    """Test scores of the linear map and its intervals."""
    data.setup()
    sizes = data.input_size, data.output_size, data.look_back
    head = ForecastHead(4, *sizes, patch=None, stride=None, intervals=(LEVEL,), linear=True, panel=data.panel).eval()
    head.fit_to(data)
    with torch.no_grad():
        for batch in data.val_dataloader():
            head.collect(head.readout(head.embed(batch)[0], batch), batch)
        head.calibrate()
        metrics = head.metrics("test")
        for batch in data.test_dataloader():
            head.update(metrics, head.readout(head.embed(batch)[0], batch), batch)
    return metrics.compute()


def opened(name: str, horizon: int, folder: Path) -> TimeSeriesData:
    """The data of a set; those of a panel are written to `folder` as a file of one's own.

    Raises:
        FileNotFoundError: there is no such set.
    """
    if name in BENCHMARKS:
        return TimeSeriesData(name, 96, horizon, 256, source="file")
    root, path = data_root() / "timeseries", folder / f"{name}.csv"
    if name == "generated":
        generated_panel().to_csv(path, index=False)
        return TimeSeriesData(file=str(path), batch_size=512, **PANEL)
    if (root / f"{name}.tsf.gz").is_file():
        monash(root / f"{name}.tsf.gz").to_csv(path, index=False)
        return TimeSeriesData(file=str(path), batch_size=512, **PANEL)
    if not (root / f"{name}.csv.gz").is_file():
        raise FileNotFoundError(f"{root}: there is no {name}.csv.gz and no {name}.tsf.gz; name another set")
    return TimeSeriesData(file=str(root / f"{name}.csv.gz"), look_back=96, horizon=horizon, batch_size=64)


def monash(path: Path) -> pd.DataFrame:
    """A file of the Monash archive of weekly series as a long table."""
    lines = gzip.decompress(path.read_bytes()).decode("latin-1").splitlines()
    tables = []
    for line in lines[lines.index("@data") + 1 :]:
        name, *_, values = line.split(":")
        y = np.array(values.split(","), float)
        stamps = pd.date_range("2012-01-01", periods=len(y), freq="W-SUN")
        tables.append(pd.DataFrame({"unique_id": name, "ds": stamps, "y": y}))
    return pd.concat(tables)


def generated_panel(series: int = 300, seed: int = 0) -> pd.DataFrame:
    """Weekly series of 120 to 200 rows with levels, seasons and noise of their own, some of which end early."""
    random, tables = np.random.default_rng(seed), []
    for i in range(series):
        rows, end = random.integers(120, 201), 200 - random.choice([0, 0, 0, 20])
        weeks = np.arange(end - rows, end)
        level, season, noise = np.exp(random.normal(size=3) * [2, 0.5, 0.7])
        y = level * (10 + season * np.sin(2 * np.pi * weeks / 52) + noise * random.normal(size=rows))
        stamps = pd.Timestamp("2020-01-05") + pd.to_timedelta(7 * weeks, unit="D")
        tables.append(pd.DataFrame({"unique_id": f"series_{i}", "ds": stamps, "y": y}))
    return pd.concat(tables)


def farthest(name: str, found: dict[str, torch.Tensor]) -> float:
    """How far the worst series or step is from the level; all alike where there is one only."""
    values = found.get(f"coverage_90_{name}", found["coverage_90"].reshape(1))
    return (values - LEVEL).abs().max().item()


def rows_of(label: str, found: dict[str, torch.Tensor], again: str, seconds: float) -> list[Row]:
    """Coverage of the whole, of the worst series and of the worst step; and the width."""
    device = device_name(torch.device("cpu"))
    series = f"by series {reach('coverage', 'by_series', found)}"
    step = f"by step {reach('coverage', 'by_step', found)}"
    widths = f"by series {reach('width', 'by_series', found)}, by step {reach('width', 'by_step', found)}"
    about = f"coverage {found['coverage_90'].item():.3f}, MSE {found['mse'].item():.4f}, closed-form linear map"
    measured = [
        ("coverage of 0.9, off by", (found["coverage_90"] - LEVEL).abs().item(), NEAR, f"{about}, {seconds:.0f} s"),
        ("coverage of 0.9, worst step off by", farthest("by_step", found), NEAR, step),
        ("coverage of 0.9, worst series off by", farthest("by_series", found), NEAR, series),
        ("width of 0.9, scaled units", found["width_90"].item(), "", widths),
    ]
    return [
        Row(f"{label} {name}", value, None, "", must, "", [], device, again, note=note)
        for name, value, must, note in measured
    ]


def reach(quantity: str, by: str, found: dict[str, torch.Tensor]) -> str:
    """The least and the largest coverage or width by series or by step."""
    part = found.get(f"{quantity}_90_{by}", found[f"{quantity}_90"].reshape(1))
    return f"{part.min().item():.3f} to {part.max().item():.3f}"


def main() -> None:
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.coverage", description=__doc__, formatter_class=form)
    parser.add_argument("--sets", default="ETTh1", help="sets, separated by commas (%(default)s)")
    parser.add_argument("--horizons", default="96", help="rows to forecast, of benchmarks and files (%(default)s)")
    parser.add_argument("--name", default="coverage", help="of the file in results/coverage (%(default)s)")
    given = parser.parse_args()
    rows: list[Row] = []
    for name, horizon in product(given.sets.split(","), map(int, given.horizons.split(","))):
        with TemporaryDirectory() as folder:
            start, data = perf_counter(), opened(name, horizon, Path(folder))
            found = measure(data)
            label = f"{name} {data.look_back}/{data.horizon}" + (f" ({len(data.columns)} series)" if data.panel else "")
        rows += rows_of(label, found, command_line("coverage"), perf_counter() - start)
        print(f"{label}: {rows[-4].note}", flush=True)
        write("coverage", given.name, rows)


if __name__ == "__main__":
    main()
