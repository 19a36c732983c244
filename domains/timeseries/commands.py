"""The verbs of a forecaster: what follows a file, and a backtest, which may train anew at every origin."""

import argparse
import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from app import results, runs
from app.checkpoints import KeepBest
from app.cli import TitansCLI, run
from app.errors import user_errors
from app.files import replacing
from app.guard import SkipNonFinite
from app.module import TitansModule
from app.trainer import TitansTrainer
from domains.timeseries.data import TimeSeriesData


def predict(arguments: argparse.Namespace) -> TitansCLI:
    """`predict --input FILE`: forecast the rows past the end of a file."""
    arguments.keys += [f"--data.file={arguments.input}", "--data.predict=future"]
    return run(arguments)


def backtest(arguments: argparse.Namespace) -> TitansCLI:
    """`backtest`: leave forecasts from rolling origins, and their scores, in the run's folder."""
    return run(arguments, BacktestCLI, BacktestTrainer)


class BacktestTrainer(TitansTrainer):
    """A trainer that rolls over the origins of a series."""

    def backtest(
        self,
        model: TitansModule,
        datamodule: TimeSeriesData,
        ckpt_path: str | Path | None = None,
        origins: int = 10,
        stride: int | None = None,
        refit: int = 0,
    ) -> pd.DataFrame:
        """Predict from rolling origins, with or without training anew on what was known at each.

        Args:
            model: the model as it was built; a checkpoint's weights take the place of its own.
            datamodule: data that can be cut at any origin.
            ckpt_path: the model that predicts, unless `refit` trains others: `best`, `last` or a file.
            origins: how many, the last of them as late as the data allow.
            stride: steps from one origin to the next; by default those that are predicted, so that none is twice.
            refit: train from scratch at every origin (1), every second (2), ... on the data before it; 0 never.

        Returns:
            the predictions, as `predict` writes them.
        """
        datamodule.prepare_data()
        datamodule.setup("fit")
        fresh = copy.deepcopy(model)
        tables = []
        for fold in datamodule.folds(origins, stride, refit):
            if refit:
                tables += self._refit(copy.deepcopy(fresh), fold)
            else:
                tables += self.predict(model, datamodule=fold, ckpt_path=ckpt_path, return_predictions=True)
        return pd.concat(tables, ignore_index=True)

    def _refit(self, model: TitansModule, fold: TimeSeriesData) -> list[pd.DataFrame]:
        """Predictions for `fold` of a model trained on it, by the weights that validated best."""
        with TemporaryDirectory() as folder:
            best = KeepBest(model.head, folder)
            quiet = {"enable_checkpointing": True, "enable_progress_bar": False, "enable_model_summary": False}
            trainer = TitansTrainer(**{**self.settings, **quiet, "logger": False, "callbacks": [best, SkipNonFinite()]})
            trainer.fit(model, datamodule=fold)
            return trainer.predict(model, datamodule=fold, ckpt_path=best.best_model_path, return_predictions=True)


class BacktestCLI(TitansCLI):
    """`backtest` beside the verbs of every domain."""

    ON_ONE_DEVICE = ("backtest",)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = {"model", "datamodule", "ckpt_path", "origins", "stride", "refit"}
        return {**TitansCLI.subcommands(), "backtest": skipped}

    def backtest(self, **kwargs: Any) -> None:
        """Roll over the origins, and leave predictions and scores in the run's folder."""
        asked = {name: getattr(self.arguments, name) for name in ("origins", "stride", "refit")}
        with user_errors():
            predictions = self.trainer.backtest(**kwargs, **asked)
        folder = runs.run_folder(self.checkpoint)
        scores = self.datamodule.score(predictions)
        for name, table in (("predictions", predictions), ("scores", scores)):
            with replacing(folder / f"backtest_{name}.csv") as part:
                table.to_csv(part, index=False)
        overall = scores[scores["by"] == "all"].set_index("model").drop(columns=["by", "at"])
        rows = {model: row.dropna().to_dict() for model, row in overall.iterrows()}
        results.print_scores("backtest", rows)
        path = results.write_results(folder, {**self.record(rows), **asked}, "backtest.json")
        self.report(f"results: {path}, backtest_scores.csv and backtest_predictions.csv beside it")
