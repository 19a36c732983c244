"""The forecaster for Python: pandas frames in and out, the model, data and trainer of the command line between."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

import pandas as pd
import yaml
from lightning import seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import instantiate_module
from matplotlib.figure import Figure

from app.callbacks import StoreConfig
from app.checkpoints import KeepBest
from app.checks import SIZES, check_values
from app.cli import default_precision
from app.errors import UserError
from app.files import save_tensors
from app.guard import SkipNonFinite
from app.module import TitansModule, module_of, read_checkpoint
from app.optim import OptimConfig
from app.quiet import quieten
from domains.timeseries.arguments import checked
from domains.timeseries.commands import BacktestTrainer
from domains.timeseries.data import ROWS, TimeSeriesData
from domains.timeseries.head import ForecastHead
from domains.timeseries.table import FRAME
from domains.timeseries.verbs import LINKED
from memory import BackboneConfig, MemoryConfig
from memory.bounds import check_bounds

# The settings of conf/timeseries_csv.yaml, where each is explained; a test compares the two.
MODEL: dict[str, dict[str, Any]] = {
    "head": {"patch": None, "stride": None, "channel_mixing": "einfft", "loss": "mae", "linear": True},
    "backbone": {"variant": "lmm", "dim": 32, "layers": 1, "heads": 4, "persistent": 4, "dropout": 0.1},
    "memory": {"heads": 2, "depth": 2, "chunk": 16},
    "optim": {"lr": 1e-3, "weight_decay": 0.01},
}


# What a class of a part takes; all else its data know, or is an argument of the forecaster.
PARTS: dict[str, tuple[type, tuple[str, ...]]] = {
    "head": (ForecastHead, (*SIZES, *LINKED, "dim", "quantiles", "intervals", "non_negative")),
    "backbone": (BackboneConfig, ("memory",)),
    "memory": (MemoryConfig, ()),
    "optim": (OptimConfig, ()),
}
# Keys of data that a frame, `predict` or an argument of the forecaster stands for.
NO_KEYS = ("dataset", "source", "file", "seed", "horizon", "look_back", "predict", "predict_rows")
BOUNDS = {
    "epochs": (0, math.inf),
    "patience": (1, math.inf),
    "minutes": (0, timedelta.max // timedelta(minutes=1)),
    "seed": (0, 2**32 - 1),
}


class Backtest(NamedTuple):
    """What rolling origins give.

    Args:
        scores: errors of the forecaster, naive and seasonal naive, of all, by origin, step and series.
        predictions: the forecasts that were scored, as `Forecaster.predict` gives them, with their truth.
    """

    scores: pd.DataFrame
    predictions: pd.DataFrame


def _parts(model: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings of each part of the model, those that are given in the place of the usual ones.

    Raises:
        ValueError: there is no such part, or it has no such key or not of this type.
    """
    unknown = sorted(set(model) - set(MODEL))
    if unknown:
        raise ValueError(f"model has no part {unknown[0]!r}; choose {', '.join(MODEL)}")
    parts = {}
    for name, (of, without) in PARTS.items():
        parts[name] = {**MODEL[name], **checked(of, model.get(name, {}), f"model.{name}.", without)}
    return parts


class Forecaster:
    """Forecasts of pandas frames, wide or long, by a Titans memory on the best linear map.

    A wide frame has one row per moment and one column per series, a long one a row for each series and moment (columns
    `unique_id`, `ds` and `y`, or others that `id_col`, `time_col` and `targets` name). The time may be the index. What
    is understood of a frame is printed before training; a frame with gaps or empty cells is refused, with the cure.

    A saved forecaster is a checkpoint of the command line, and the other way round.

    Args:
        horizon: rows to forecast.
        look_back: rows that the model sees; None takes 96, or what leaves a short frame enough windows.
        quantiles: levels to forecast, 0.5 among them; none forecasts the point alone.
        intervals: share of truths that each interval is to hold.
        non_negative: no forecast falls below zero.
        epochs: passes over the training rows, at most.
        patience: validations without a better score after which training ends; None trains all epochs.
        minutes: of training, at most; None for no limit.
        seed: of weights, shuffling and dropout.
        model: other settings of the model by part, `{"backbone": {"dim": 64}, "optim": {"lr": 1e-3}}`; the parts are
            `head`, `backbone`, `memory` and `optim`, their keys those of the command line.
        data: further keys of `TimeSeriesData`, such as `id_col`, `time_col`, `targets`, `future_covariates`, `season`,
            `val_rows` and `test_rows`.

    Example:
        forecaster = Forecaster(horizon=24).fit(frame)
        table = forecaster.predict()
    """

    def __init__(
        self,
        horizon: int,
        look_back: int | None = None,
        *,
        quantiles: Sequence[float] = (),
        intervals: Sequence[float] = (0.9,),
        non_negative: bool = False,
        epochs: int = 5,
        patience: int | None = None,
        minutes: float | None = None,
        seed: int = 0,
        model: dict[str, dict[str, Any]] | None = None,
        **data: Any,
    ) -> None:
        own: dict[str, Any] = {"horizon": horizon, "look_back": look_back, "epochs": epochs, "patience": patience}
        own |= {"quantiles": quantiles, "intervals": intervals, "non_negative": non_negative}
        own = checked(Forecaster, {**own, "minutes": minutes, "seed": seed, "model": model}, without=["data"])
        check_bounds("", own, BOUNDS)
        sizes = {name: own[name] for name in ("horizon", "look_back")}
        keys: dict[str, Any] = {
            "batch_size": 128,
            **checked(TimeSeriesData, data, "data.", NO_KEYS),
            "file": FRAME,
            **sizes,
        }
        parts = _parts(own["model"] or {})
        head = {name: own[name] for name in ("quantiles", "intervals", "non_negative")}
        self.config: dict[str, Any] = {
            "seed_everything": own["seed"],
            "trainer": {"max_epochs": own["epochs"], "patience": own["patience"]},
            "model": {
                "head": {"class_path": "domains.timeseries.ForecastHead", "init_args": {**parts["head"], **head}},
                "backbone": {**parts["backbone"], "memory": parts["memory"]},
                "optim": parts["optim"],
            },
            "data": {
                "class_path": "domains.timeseries.TimeSeriesData",
                "init_args": keys,
            },
        }
        check_values(self.config)
        # What is no key's to hold is refused here, and not after a frame has been read.
        TimeSeriesData(**keys)
        self.budget = None if minutes is None else timedelta(minutes=own["minutes"])
        self._data: TimeSeriesData | None = None
        self._module: TitansModule | None = None
        self._checkpoint: dict[str, Any] = {}
        self._shown: tuple[TimeSeriesData, pd.DataFrame] | None = None

    def fit(self, frame: pd.DataFrame) -> Self:
        """Train on a frame, and keep the weights that validated best.

        Raises:
            ValueError: the frame is not what the keys say, or has gaps; the message names the row and the cure.
        """
        seed_everything(self.config["seed_everything"], verbose=False)
        data = self._opened(frame)
        module = self._built(data)
        with TemporaryDirectory() as folder:
            best = KeepBest(module.head, folder)
            stored = StoreConfig(yaml.safe_dump(self.config, sort_keys=False), strict=False)
            trainer = self._trainer([SkipNonFinite(), stored, best], self.budget)
            trainer.fit(module, datamodule=data)
            self._checkpoint = read_checkpoint(best.best_model_path)
        module.load_state_dict(self._checkpoint["state_dict"])
        self._module = module.eval()
        self._data = data
        self._shown = None
        return self

    def predict(self, frame: pd.DataFrame | None = None, horizon: int | None = None) -> pd.DataFrame:
        """The forecast past the end of a frame.

        Args:
            frame: with the columns of the one that was fitted, newer; None takes that one.
            horizon: rows; past the trained ones forecasts are fed back, and marked `rolled`.

        Returns:
            a row for each series and step: `series`, `origin`, `step`, `stamp`, `prediction`, quantiles as `q0.1`, and
            `lower_90` and `upper_90` of an interval, in the frame's units.
        """
        horizon = checked(Forecaster.predict, {"horizon": horizon}, without=["self", "frame"])["horizon"]
        data = self._latest(frame)
        data.predict = "future"
        check_bounds("predict", {"horizon": horizon}, {"horizon": ROWS})
        if horizon is not None:
            data.predicted = horizon
        table = self._answers(self._trainer([]), data)
        self._shown = data, table
        return table

    def plot(self) -> Figure:
        """A picture of the last forecast: history, forecast and intervals of up to three series."""
        if self._shown is None:
            self.predict()
        data, table = self._shown
        return data.picture(table)

    def backtest(
        self, frame: pd.DataFrame | None = None, origins: int = 10, stride: int | None = None, refit: int = 0
    ) -> Backtest:
        """Forecast from rolling origins in the test part, and score against what came.

        Args:
            frame: as in `predict`.
            origins: how many, the last of them as late as the test part allows.
            stride: rows from one to the next; None takes the horizon, so that no row is forecast twice.
            refit: train anew at every origin (1), every second (2), ... on the rows before it; 0 never.
        """
        asked: dict[str, Any] = {"origins": origins, "stride": stride, "refit": refit}
        asked = checked(Forecaster.backtest, asked, without=["self", "frame"])
        data = self._latest(frame)
        trainer = self._trainer([])
        model = self._built(data) if asked["refit"] else self._fitted()
        predictions = trainer.backtest(model, data, **asked)
        return Backtest(data.score(predictions), predictions)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, which `load` and `python -m app predict --ckpt` read.

        Raises:
            UserError: nothing is fitted yet, or the file cannot be written.
        """
        checked(Forecaster.save, {"path": path}, without=["self"])
        self._fitted()
        save_tensors(Path(path), self._checkpoint)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The forecaster of a checkpoint, that of `save` or of `python -m app fit`.

        Raises:
            UserError: there is no such file, or it holds no forecaster.
        """
        checked(cls.load, {"path": path})
        checkpoint = read_checkpoint(path)
        module = module_of(checkpoint, path)
        if checkpoint["head"] != "domains.timeseries.head.ForecastHead":
            raise UserError(f"{path} holds a {checkpoint['head']}, no forecaster")
        forecaster = cls(horizon=module.head.horizon)
        forecaster.config = yaml.safe_load(checkpoint["config"])
        forecaster._module = module
        forecaster._checkpoint = checkpoint
        return forecaster

    def _fitted(self) -> TitansModule:
        if self._module is None:
            raise UserError("this forecaster is not fitted yet; call fit(frame) or Forecaster.load(path)")
        return self._module

    def _latest(self, frame: pd.DataFrame | None) -> TimeSeriesData:
        """A frame as data, or a fresh view of those that were fitted, or of the file that a checkpoint names."""
        head: Any = self._fitted().head
        look_back: int = head.look_back  # a frame of another length might suggest another one
        if frame is not None:
            return self._opened(frame, look_back)
        if self._data is None and self.config["data"]["init_args"].get("file") == FRAME:
            raise UserError("a loaded forecaster has no data of its own; give a frame")
        if self._data is None:
            keys: dict[str, Any] = {**self.config["data"]["init_args"], "look_back": look_back}
            self._data = TimeSeriesData(**keys)
            self._data.prepare_data()
        data = copy.copy(self._data)
        data.predicted = data.horizon
        return data

    def _opened(self, frame: pd.DataFrame, look_back: int | None = None) -> TimeSeriesData:
        """A frame as data, with a look-back other than that of the configuration if there is one."""
        if isinstance(frame, pd.Series):
            frame = frame.to_frame(frame.name or "y")
        if not isinstance(frame, pd.DataFrame):
            raise ValueError(
                f"a forecaster reads frames of pandas, not a {type(frame).__name__}; make a DataFrame of it"
            )
        keys = {**self.config["data"]["init_args"], "file": FRAME}
        data = TimeSeriesData.of(frame, **{**keys, "look_back": look_back or keys["look_back"]})
        keys["time_col"] = data.keys.time_col
        self.config["data"]["init_args"] = keys
        return data

    def _built(self, data: TimeSeriesData) -> TitansModule:
        """An untrained model for data, whose hyper-parameters are those that the command line would write."""
        config = copy.deepcopy(self.config["model"])
        sizes = {name: getattr(data, name) for name in (*SIZES, *LINKED)}
        config["head"]["init_args"] |= {**sizes, "dim": config["backbone"]["dim"]}
        module = instantiate_module(TitansModule, config)
        module.hparams.update({**config, "_instantiator": "lightning.pytorch.cli.instantiate_module"})
        return module

    def _answers(self, trainer: BacktestTrainer, data: TimeSeriesData) -> pd.DataFrame:
        tables = trainer.predict(self._fitted(), datamodule=data, return_predictions=True)
        return pd.concat(tables, ignore_index=True)

    def _trainer(self, callbacks: list[Callback], budget: timedelta | None = None) -> BacktestTrainer:
        quieten()
        lengths = {key: self.config["trainer"].get(key) for key in ("max_epochs", "patience")}
        return BacktestTrainer(
            **lengths,
            max_time=budget,
            precision=default_precision("auto"),
            gradient_clip_val=1.0,
            devices=1,
            logger=False,
            callbacks=callbacks,
            enable_checkpointing=bool(callbacks),
            enable_progress_bar=bool(callbacks),
            enable_model_summary=False,
        )
