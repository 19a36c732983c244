"""The command line: one LightningCLI that reads OmegaConf YAML.

Four places differ from Lightning's own: a checkpoint never overrules the config, `best` and `last` name files that an
earlier process left behind, a checkpoint can stand in for its config, and what the user can fix ends as one line.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from jsonargparse import set_parsing_settings
from lightning.pytorch.callbacks import Checkpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from omegaconf.errors import OmegaConfBaseException

from app import results, runs, signals
from app.callbacks import DrawTest, EndOnSignal, LogPictures, LogTraining, StoreConfig
from app.checkpoints import checkpoints
from app.data import DomainData
from app.devices import end_with_parent, lost_device
from app.errors import UserError, is_for_user, user_errors
from app.files import replacing
from app.guard import SkipNonFinite
from app.layers import LayeredConfig
from app.module import TitansModule, load_module, read_checkpoint
from app.optim import OptimConfig
from app.quiet import quieten
from app.reading import reading
from app.restore import CURE
from app.resume import changes, differences, judge
from app.trainer import TitansTrainer
from app.versions import device_name
from memory import BackboneConfig, MemoryConfig
from memory.bounds import check_bounds

# `${data.init_args.horizon}` is resolved once, after every --config and every --key value is merged
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)

USAGE = "python -m app {} --config conf/NAME.yaml [--config MORE.yaml] [--key.subkey VALUE ...]"
STORED = ("seed_everything", "trainer", "model", "data")  # the part of a config that all commands share
# what a checkpoint without a config tells the trainer: how `backtest` trains anew, and `fit` goes on
LENGTHS = ("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val", "limit_train_batches")
LENGTHS += ("val_check_interval", "check_val_every_n_epoch")


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        super().error(plain(message), ex)


def plain(message: str) -> str:
    """An error's message as one line that says what is wrong and nothing else."""
    # a class that the config names is `Class | None` to jsonargparse: of its two complaints only the first helps
    pattern = r"(?:(.*?):\s*)?Does not validate.*?Errors:\s*- (.*?)\s*- Expected a <class 'NoneType'>"
    union = re.search(pattern, message, re.DOTALL)
    return " ".join((": ".join(filter(None, union.groups())) if union else message).split())


class TitansCLI(LightningCLI):
    """fit / validate / test / predict / backtest over any domain that the config names.

    Args:
        command: the command line as it was given, for the record.
        kwargs: what LightningCLI takes.
    """

    def __init__(self, *args: Any, command: str, **kwargs: Any) -> None:
        self.command = command
        super().__init__(*args, **kwargs)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {**LightningCLI.subcommands(), "backtest": {"model", "datamodule"}}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        kwargs.setdefault("dump_header", [f"lightning.pytorch=={lightning.__version__}"])
        parser = self.parser_class(**kwargs)
        parser.add_argument("-c", "--config", action=LayeredConfig, help="a YAML file; `base` in it names one below it")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # a key of files, see LayeredConfig; hidden from help and from printed and stored configs
        parser.add_argument("--base", type=str | None, default=None, help=argparse.SUPPRESS)
        parser.link_arguments("model.backbone.dim", "model.head.init_args.dim")
        # what the data knows, the config need not repeat; a domain without covariates has no such size
        for size in ("input_size", "output_size", "past_size", "future_size", "look_back", "panel"):
            parser.link_arguments(f"data.{size}", f"model.head.init_args.{size}", apply_on="instantiate")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Nothing but a name where another command was given: each full parser would take half a second."""
        if self.command.split()[3:4] == [subcommand]:
            return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        return self.init_parser(**kwargs)

    def parse_arguments(self, parser: LightningArgumentParser, args: Sequence[str]) -> None:
        try:
            self.config = parser.parse_args(args)
        except OmegaConfBaseException as error:  # a dangling ${...}
            parser.error(f"{error.full_key}: {str(error).splitlines()[0]}")
        if self.config[self.config["subcommand"]].pop("base") is not None:
            parser.error("base: this is a key of files; on the command line give the file by another --config")
        self._check_values(self.config[self.config["subcommand"]])

    @user_errors()
    def _check_values(self, config: Any) -> None:
        """Refuse numbers that no key may have, and a model that cannot be, before anything is built of them."""
        check_bounds("", config.as_dict(), {"seed_everything": (0, 2**32 - 1)})
        backbone, optim = (config["model"][name].as_dict() for name in ("backbone", "optim"))
        BackboneConfig(**{**backbone, "memory": MemoryConfig(**backbone["memory"])})
        OptimConfig(**optim)

    def _parse_ckpt_path(self) -> None:
        """Keep the model of the config: Lightning would let the checkpoint silently overrule it."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        dump = yaml.safe_load(self._parser(self.subcommand).dump(config, "yaml", False))  # False: null keys too
        self.stored = {key: dump[key] for key in STORED}
        self.checkpoint = self._find_checkpoint(config["ckpt_path"], config["trainer"]["logger"])
        self.found = config["ckpt_path"] in ("best", "last")  # not named by its file
        if self.checkpoint:
            rank_zero_only(print)(f"checkpoint: {self.checkpoint}")
            config["ckpt_path"] = str(self.checkpoint)
            config["model"]["init_from"] = None  # its weights are in the checkpoint
            self.trained = stored_config(self.checkpoint) or self.stored
            self.overruled = differences(self.trained["model"], self.stored["model"], "model")
            if self.subcommand == "fit":
                judge(changes(self.trained, self.stored), str(self.checkpoint), self.found)
            else:
                for key, (then, now) in self.overruled.items():
                    told = f"warning: the checkpoint was trained with {key}={then}, this command says {now}"
                    rank_zero_only(print)(told)
            run = runs.run_folder(self.checkpoint)
            if self.subcommand == "fit" and run.parent == _runs_of(config["trainer"]["logger"]):
                config["trainer"]["logger"]["init_args"]["version"] = runs.version(run)  # go on in the same folder

    def _find_checkpoint(self, wanted: str | None, logger: Any) -> Path | None:
        """The file that --ckpt_path means; without it, nothing for `fit` and `best` for the others."""
        if wanted is None and self.subcommand == "fit":
            return None
        if wanted in (None, "best", "last"):
            if root := _runs_of(logger):
                return runs.newest_checkpoint(root, wanted or "best")
            raise UserError("trainer.logger names no folder of runs to search; give --ckpt_path FILE")
        if not Path(wanted).is_file():
            raise UserError(f"ckpt_path: there is no file {wanted}; give `best`, `last` or a checkpoint file")
        return Path(wanted)

    def instantiate_classes(self) -> None:
        try:
            with user_errors():
                super().instantiate_classes()
        except Exception as error:  # of whatever class the configuration names
            if is_for_user(error):
                raise
            stopped = f"the configuration cannot be built: {error}"
            raise UserError(f"{stopped}; TITANS_DEBUG=1 shows by which key") from error

    def instantiate_trainer(self) -> TitansTrainer:
        config = self._get(self.config_init, "trainer")
        callbacks = config["callbacks"] or []
        callbacks = [*callbacks] if isinstance(callbacks, list) else [callbacks]
        if config["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            # the bar reads the loss from the device: not at every step
            callbacks.append(TQDMProgressBar(refresh_rate=10))
        changes: dict[str, Any] = {"precision": config["precision"] or default_precision(config["accelerator"])}
        if self.subcommand == "fit":
            guard = SkipNonFinite()
            callbacks += [
                guard,
                LogTraining(guard),
                LogPictures(),
                StoreConfig(yaml.safe_dump(self.stored, sort_keys=False), self.found),
            ]
        if self.subcommand == "fit" and config["enable_checkpointing"] is not False:
            callbacks += checkpoints(self.model.head)
        else:
            callbacks.append(EndOnSignal())
        if self.subcommand != "fit":
            # results go into the folder of the run that is tested, not into a new one
            changes |= {"logger": False, "enable_checkpointing": False}
            callbacks = [c for c in callbacks if not isinstance(c, Checkpoint)]
        if self.subcommand == "test":
            callbacks.append(DrawTest(runs.run_folder(self.checkpoint)))
        if self.subcommand in ("predict", "backtest"):
            changes |= {"devices": 1, "strategy": "auto"}  # one device, one file
        return super().instantiate_trainer(**changes, callbacks=callbacks)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand == "test":
            kwargs["verbose"] = False  # our table follows
        if subcommand == "predict":
            kwargs["return_predictions"] = False  # they stream to a file
            kwargs["output"] = kwargs["output"] or str(runs.run_folder(self.checkpoint) / "predictions.csv")
            self.predictions = kwargs["output"]
        return kwargs

    def after_fit(self) -> None:
        best = self.trainer.checkpoint_callback
        if best is not None and best.best_model_score is not None and Path(best.best_model_path).is_file():
            self._report(f"best checkpoint: {best.best_model_path} ({best.monitor} {best.best_model_score:.4f})")

    def after_validate(self) -> None:
        self._report()

    def after_test(self) -> None:
        metrics = {name: value.item() for name, value in self.trainer.callback_metrics.items()}
        if self.trainer.is_global_zero:
            published = {} if self._partial() else self.datamodule.published()
            results.print_table(self.model.head, metrics, published)
            kept = self._results(metrics) | {"details": self.model.head.details(self.model.summary)}
            kept |= {"partial": self._partial(), "published": self.datamodule.published()}
            path = results.write_results(runs.run_folder(self.checkpoint), kept)
            self._report(f"results: {path}")

    def _partial(self) -> bool:
        """Whether the command line left test batches out."""
        limit = self.trainer.limit_test_batches  # 1.0 is all of them, 1 a single one
        return isinstance(limit, int) or limit != 1.0 or bool(self.trainer.fast_dev_run)

    def after_predict(self) -> None:
        self._report(f"predictions: {self.predictions}")

    def backtest(self, **kwargs: Any) -> None:
        """Roll over the origins, and leave predictions and scores in the run's folder."""
        with user_errors():
            predictions = self.trainer.backtest(**kwargs)
        folder, scores = runs.run_folder(self.checkpoint), self.datamodule.score(predictions)
        for name, table in (("predictions", predictions), ("scores", scores)):
            with replacing(folder / f"backtest_{name}.csv") as part:
                table.to_csv(part, index=False)
        overall = scores[scores["by"] == "all"].set_index("model").drop(columns=["by", "at"])
        rows = {model: row.dropna().to_dict() for model, row in overall.iterrows()}
        results.print_scores("backtest", rows)
        asked = {name: kwargs[name] for name in ("origins", "stride", "refit")}
        path = results.write_results(folder, {**self._results(rows), **asked}, "backtest.json")
        self._report(f"results: {path}, backtest_scores.csv and backtest_predictions.csv beside it")

    @rank_zero_only
    def _report(self, line: str = "") -> None:
        if line:
            print(line)
        results.warn_if_sample(self.datamodule.provenance())
        if self.subcommand == "test" and self._partial():
            print("warning: PARTIAL test, batches were left out: not comparable with anything")

    def _results(self, metrics: dict[str, Any]) -> dict[str, Any]:
        return {
            "metrics": metrics,
            "data": self.datamodule.provenance(),
            "seed": self.trained.get("seed_everything"),
            "device": device_name(self.trainer.strategy.root_device),
            "devices": self.trainer.world_size,
            "precision": self.trainer.precision,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "command": self.command,
            "checkpoint": str(self.checkpoint),
            "config": self.trained,
            "overruled": {key: now for key, (_, now) in self.overruled.items()},
        }


def _runs_of(logger: Any) -> Path | None:
    """The folder runs/NAME of a configured logger; None where the logger has none."""
    try:
        return Path(logger.init_args.save_dir, logger.init_args.name)
    except (AttributeError, TypeError):
        return None


def default_precision(accelerator: str) -> str:
    """bf16-mixed on a CUDA device that computes in bfloat16, full precision elsewhere."""
    cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def stored_config(checkpoint: str | Path) -> dict[str, Any] | None:
    """The configuration that a checkpoint carries; None for one that was written outside the command line.

    Raises:
        UserError: there is no such file.
        Unreadable: it is damaged, or no checkpoint.
    """
    content = read_checkpoint(checkpoint)
    if "config" not in content:
        return None
    with reading(checkpoint, "a checkpoint with a config", CURE) as at:
        config = yaml.safe_load(content["config"])
        if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in STORED[1:]):
            raise at.error("its config names no trainer, model or data")
    return config


def main(args: Sequence[str] | None = None) -> TitansCLI | None:
    """Run one command; what the user can fix ends as one line and exit code 2 (TITANS_DEBUG=1 shows the traceback).

    Args:
        args: the command line after `python -m app`; by default that of this process.
    """
    quieten()
    if "LOCAL_RANK" in os.environ:  # one of several processes, started by Lightning or torchrun
        end_with_parent()
    args = list(sys.argv[1:] if args is None else args)
    try:
        with signals.ending():
            return _generate(args[1:]) if args[:1] == ["generate"] else _run(args)
    except Exception as error:
        if os.environ.get("TITANS_DEBUG"):
            raise
        if lost_device(error):
            sys.exit(f"\nerror: another process of this run has ended; its output says why. {plain(str(error))}")
        if not is_for_user(error):
            raise
        print(f"\nerror: {plain(str(error))}", file=sys.stderr)  # on a line of its own, behind any progress bar
        sys.exit(2)


def _generate(args: list[str]) -> None:
    """`generate`: no trainer and no data, only a checkpoint, whose head knows what a prompt is."""
    peek = argparse.ArgumentParser(prog="python -m app generate", add_help=False, allow_abbrev=False)
    peek.add_argument("--ckpt", required=True)
    given, rest = peek.parse_known_args(args)
    module = load_module(given.ckpt)
    module.head.generate(module, rest)


def _run(args: list[str]) -> TitansCLI:
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("-c", "--config", action="append", default=[])
    peek.add_argument("--ckpt_path", default="")
    given, _ = peek.parse_known_args(args)
    command = shlex.join(["python", "-m", "app", *args])
    if not given.config and given.ckpt_path not in ("", "best", "last"):
        stored = stored_config(given.ckpt_path)
        if stored is None:
            raise UserError(f"{given.ckpt_path} holds no config; give its --config conf/NAME.yaml")
        # of the trainer only numbers: no file may choose what is written, and where
        lengths = {key: value for key, value in stored["trainer"].items() if key in LENGTHS}
        numbers = {key: value for key, value in lengths.items() if isinstance(value, int | float)}
        chosen = {"model": stored["model"], "data": stored["data"], "trainer": numbers}
        args = [args[0], "--config", yaml.safe_dump(chosen, sort_keys=False), *args[1:]]
    # layered configs keep the name of the first: `--config conf/text.yaml --config conf/ddp.yaml` is a run of `text`
    name = Path(given.config[0]).stem if given.config else "titans"
    logger = {"save_dir": "runs", "name": name, "default_hp_metric": False}
    usage = {name: {"usage": USAGE.format(name)} for name in TitansCLI.subcommands()}
    return TitansCLI(
        TitansModule,
        DomainData,
        subclass_mode_data=True,
        trainer_class=TitansTrainer,
        auto_configure_optimizers=False,
        save_config_callback=None,  # StoreConfig does more
        seed_everything_default=0,
        trainer_defaults={
            "gradient_clip_val": 1.0,
            "logger": {"class_path": "TensorBoardLogger", "init_args": logger},
        },
        parser_class=OneLineParser,
        parser_kwargs={"prog": "python -m app", "parser_mode": "omegaconf+", "allow_abbrev": False, **usage},
        args=args,
        command=command,
    )
