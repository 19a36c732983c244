"""The verbs that every domain shares: one LightningCLI that reads OmegaConf YAML.

Four places differ from Lightning's own: a checkpoint never overrules the config, `best` and `last` name files that an
earlier process left behind, a checkpoint can stand in for its config, and what the user can fix ends as one line.
"""

import argparse
from pathlib import Path
from typing import Any, NoReturn, cast

import lightning
import torch
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from omegaconf.errors import OmegaConfBaseException

from app import results, runs
from app.board import Board
from app.callbacks import DrawMemory, EndOnSignal, LogPictures, LogTraining, PrintSize, StoreConfig, WritePredictions
from app.checkpoints import checkpoints
from app.checks import check_parts, check_values, linked_sizes
from app.compare import LogComparison, run_name
from app.data import DomainData
from app.declared import declared
from app.dump import LOADER, dumped
from app.errors import UserError, is_for_user, plain, user_errors
from app.guard import SkipNonFinite
from app.help import Parser
from app.layers import LayeredConfig, applied
from app.module import TitansModule, read_checkpoint
from app.reading import reading
from app.restore import CURE
from app.resume import changes, differences, judge
from app.together import EndTogether
from app.trainer import TitansTrainer
from app.verbs import KEYS, PROGRAM, registered
from app.versions import device_name

# `${data.init_args.horizon}` is resolved once, after every --config and every --key value is merged
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)

STORED = ("seed_everything", "trainer", "model", "data")  # the part of a config that all commands share
# what a checkpoint that comes without a --config tells the trainer: how a training goes on, or is done anew
LENGTHS = ("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val", "limit_train_batches")
LENGTHS += ("val_check_interval", "check_val_every_n_epoch", "patience")


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if message.startswith("the following arguments are required"):
            message += "; give --config conf/NAME.yaml, which has them, or the checkpoint of a training"
        super().error((applied.get() if self.exit_on_error else "") + plain(message), ex)  # of a class's parser no file


class TitansCLI(LightningCLI):
    """fit / validate / test / predict over any domain that the config names.

    Args:
        arguments: what `app.door` has read of the command line: `verb` and the `package` it is of, `ckpt`, `command`
            and the options of `predict`.
        opened: checkpoints that have been read already, so that the command reads each once.
        kwargs: what LightningCLI takes.
    """

    ON_ONE_DEVICE = ("predict",)  # verbs that write one file

    def __init__(
        self, *args: Any, arguments: argparse.Namespace, opened: dict[Path, dict[str, Any]], **kwargs: Any
    ) -> None:
        self.arguments = arguments
        self.opened = opened
        self.command = arguments.command
        super().__init__(*args, **kwargs)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {verb: {*skipped, "ckpt_path"} for verb, skipped in LightningCLI.subcommands().items()}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        kwargs.setdefault("dump_header", [f"lightning.pytorch=={lightning.__version__}"])
        parser = self.parser_class(**kwargs)
        parser.add_argument("-c", "--config", action=LayeredConfig, help="a YAML file; its `base` names those below it")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # a key of files, see LayeredConfig; hidden from help and from printed and stored configs
        parser.add_argument("--base", type=str | list[str] | None, default=None, help=argparse.SUPPRESS)
        parser.link_arguments("model.backbone.dim", "model.head.init_args.dim")
        for size in linked_sizes():
            parser.link_arguments(f"data.{size}", f"model.head.init_args.{size}", apply_on="instantiate")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Nothing but a name where another command was given: each full parser would take half a second."""
        if self.arguments.verb != subcommand:
            return self.init_parser(**kwargs)
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.add_argument("--ckpt_path", type=str | None, help="what --ckpt says, as a key of a file")
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        try:
            self.config = parser.parse_args(cast(list[str], args))
        except OmegaConfBaseException as error:
            # A reference ${...} leads to no key.
            parser.error(f"{error.full_key}: {str(error).splitlines()[0]}")
        if self.config[self.config["subcommand"]].pop("base") is not None:
            parser.error("base: this is a key of files; on the command line give the file by another --config")
        read = self.config[self.config["subcommand"]]
        with user_errors():
            check_parts(read, self.arguments.verb, self.arguments.package)
        try:
            # A parser takes null for every key, as if the key had not been given.
            parser.validate(self.config, False)
        except TypeError as error:
            parser.error(str(error))
        with user_errors():
            check_values(read.as_dict())

    def _parse_ckpt_path(self) -> None:
        """Keep the model of the config: Lightning would let the checkpoint silently overrule it."""

    def before_instantiate_classes(self) -> None:
        config = self.config[str(self.subcommand)]
        parser = self._parser(self.subcommand)
        dump = dumped(parser, config)
        self.stored = {key: dump[key] for key in STORED}
        self.checkpoint = self._find_checkpoint(config["ckpt_path"], config["trainer"]["logger"])
        self.by_name = config["ckpt_path"] in ("best", "last")  # not named by its file
        if self.checkpoint:
            rank_zero_only(print)(f"checkpoint: {self.checkpoint}")
            config["ckpt_path"] = str(self.checkpoint)
            if self.checkpoint not in self.opened:
                self.opened[self.checkpoint] = read_checkpoint(self.checkpoint)
            content = self.opened[self.checkpoint]
            self.trained = stored_config(content, self.checkpoint) or self.stored
            self._keep_found_out(config, content)
            self.overruled = differences(self.trained["model"], self.stored["model"], "model")
            if self.subcommand == "fit":
                judge(changes(self.trained, self.stored), str(self.checkpoint), self.by_name)
            else:
                for key, (then, now) in self.overruled.items():
                    told = f"warning: the checkpoint was trained with {key}={then}, this command says {now}"
                    rank_zero_only(print)(told)
            run = runs.run_folder(self.checkpoint)
            if self.subcommand == "fit" and run.parent == _runs_of(config["trainer"]["logger"]):
                # The training goes on in the folder of its run.
                config["trainer"]["logger"]["init_args"]["version"] = runs.version(run)
        self.config_dump = dumped(parser, config, links=True)  # the hyper-parameters, which Lightning would dump

    def _keep_found_out(self, config: Any, content: dict[str, Any]) -> None:
        """Sizes that null left to the data stay those of the checkpoint's model: another file might say otherwise."""
        head = content.get("hyper_parameters", {}).get("head", {}).get("init_args", {})
        for size in (size for domain in registered() for size in domain.linked):
            key = f"data.init_args.{size}"
            if size in head and key in config and config[key] is None:
                config[key] = head[size]

    def _find_checkpoint(self, wanted: str | None, logger: Any) -> Path | None:
        """The file that --ckpt means; without it, nothing for `fit` and `best` for the others."""
        if wanted is None and self.subcommand == "fit":
            return None
        if wanted in (None, "best", "last"):
            if root := _runs_of(logger):
                return runs.newest_checkpoint(root, wanted or "best")
            raise UserError("trainer.logger names no folder of runs to search; give --ckpt FILE")
        if not Path(wanted).is_file():
            raise UserError(f"--ckpt: there is no file {wanted}; give `best`, `last` or a checkpoint file")
        return Path(wanted)

    def instantiate_classes(self) -> None:
        try:
            with user_errors():
                super().instantiate_classes()
        except Exception as error:
            # A class that the configuration names may raise anything.
            if is_for_user(error):
                raise
            stopped = f"the configuration cannot be built: {error}"
            raise UserError(f"{stopped}; TITANS_DEBUG=1 shows by which key") from error

    def instantiate_trainer(self, **kwargs: Any) -> TitansTrainer:
        config = self._get(cast(Namespace, self.config_init), "trainer")
        callbacks = config["callbacks"] or []
        callbacks = [*callbacks] if isinstance(callbacks, list) else [callbacks]
        if config["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            # the bar reads the loss from the device: not at every step
            callbacks.append(TQDMProgressBar(refresh_rate=10))
        callbacks += [EndTogether(), *self.model.head.callbacks()]
        changes: dict[str, Any] = {"precision": config["precision"] or default_precision(config["accelerator"])}
        if self.subcommand == "fit" and config["enable_model_summary"] is not False:
            callbacks.append(PrintSize())
            changes["enable_model_summary"] = False
        if self.subcommand == "fit":
            guard = SkipNonFinite()
            callbacks += [
                guard,
                LogTraining(guard),
                LogComparison(self.stored),
                LogPictures(),
                StoreConfig(yaml.safe_dump(self.stored, sort_keys=False), self.by_name),
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
            callbacks.append(DrawMemory())
        if self.subcommand == "predict":
            callbacks.append(WritePredictions(self.predictions))
        if self.subcommand in self.ON_ONE_DEVICE:
            changes |= {"devices": 1, "strategy": "auto"}
        trainer = cast(TitansTrainer, super().instantiate_trainer(**kwargs, **changes, callbacks=callbacks))
        trainer.checkpoints.opened = self.opened
        for logger in trainer.loggers:
            if isinstance(logger, Board):
                logger.label = run_name(self.arguments.keys)
        return trainer

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["ckpt_path"] = self.config[subcommand]["ckpt_path"]
        if subcommand == "test":
            # The command prints its own table of the metrics.
            kwargs["verbose"] = False
        if subcommand == "predict":
            # WritePredictions streams them to a file.
            kwargs["return_predictions"] = False
        return kwargs

    @property
    def predictions(self) -> Path:
        """The file that `predict` writes."""
        return self.arguments.output or self._run_folder() / "predictions.csv"

    def _run_folder(self) -> Path:
        """The folder of the run whose checkpoint the command reads."""
        assert self.checkpoint is not None, "every verb but `fit` reads one"
        return runs.run_folder(self.checkpoint)

    def after_fit(self) -> None:
        best = cast(ModelCheckpoint | None, self.trainer.checkpoint_callback)
        if best is None:
            return
        last = Path(best.dirpath or "", "last.ckpt")
        if best.best_model_score is not None and Path(best.best_model_path).is_file():
            self.report(f"best checkpoint: {best.best_model_path} ({best.monitor} {best.best_model_score:.4f})")
        elif last.is_file():
            self.report(f"last checkpoint: {last} (no validation was reached, so none is the best)")

    def after_validate(self) -> None:
        self.report()

    def after_test(self) -> None:
        metrics = {name: value.item() for name, value in self.trainer.callback_metrics.items()}
        if self.trainer.is_global_zero:
            simple = self.datamodule.simple()
            others = {} if self._partial() else {**simple, **self.datamodule.published()}
            results.print_table(self.model.head, metrics, others)
            record = self.record(metrics) | {"details": self.model.head.details(self.model.summary)}
            record |= {"partial": self._partial(), "published": self.datamodule.published(), "simple": simple}
            path = results.write_results(self._run_folder(), record)
            self.report(f"results: {path}")

    def _partial(self) -> bool:
        """Whether the command line left test batches out."""
        limit = self.trainer.limit_test_batches  # 1.0 is all of them, 1 a single one
        return isinstance(limit, int) or limit != 1.0 or bool(declared(self.trainer).fast_dev_run)

    def after_predict(self) -> None:
        self.report(f"predictions: {self.predictions}")

    @rank_zero_only
    def report(self, line: str = "") -> None:
        """Print a line, and what everybody must know who reads a score of this command."""
        if line:
            print(line)
        results.warn_if_sample(self.datamodule.provenance())
        if self.subcommand == "test" and self._partial():
            print("warning: PARTIAL test, batches were left out: not comparable with anything")

    def record(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """What a file of results tells beside its metrics: data, seed, device, command, checkpoint, configuration."""
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


def stored_config(content: dict[str, Any], checkpoint: str | Path) -> dict[str, Any] | None:
    """The configuration that a checkpoint carries; None for one that was written outside the command line.

    Args:
        content: of the checkpoint.
        checkpoint: its file, for messages.

    Raises:
        Unreadable: what it carries is no configuration.
    """
    if "config" not in content:
        return None
    with reading(checkpoint, "a checkpoint with a config", CURE) as at:
        config = yaml.load(content["config"], LOADER)
        if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in STORED[1:]):
            raise at.error("its config names no trainer, model or data")
    return config


def run(
    arguments: argparse.Namespace, cli: type[TitansCLI] = TitansCLI, trainer: type[TitansTrainer] = TitansTrainer
) -> TitansCLI:
    """Carry out a verb whose arguments are keys of a configuration.

    Args:
        arguments: what `app.door` has read; in `keys` is what configures trainer, model and data.
        cli: a class that has the verb.
        trainer: a class that has a method of the verb's name.

    Raises:
        UserError: the checkpoint holds no configuration, and none was given.
    """
    peek = Parser(prog=f"{PROGRAM} {arguments.verb}")
    peek.add_argument("-c", "--config", action="append", default=[])
    configs = peek.parse_known_args(arguments.keys)[0].config
    args = list(arguments.keys)
    if args[-2:] == ["--help", "all"]:
        args.pop()
    if arguments.ckpt is not None:
        args = ["--ckpt_path", arguments.ckpt, *args]
    opened: dict[Path, dict[str, Any]] = {}
    if not configs and arguments.ckpt not in (None, "best", "last"):
        path = Path(arguments.ckpt)
        opened[path] = read_checkpoint(path)
        args = ["--config", yaml.safe_dump(_configured_by(opened[path], path), sort_keys=False), *args]
    # layered configs keep the name of the first: `--config conf/text.yaml --config conf/ddp.yaml` is a run of `text`
    name = Path(configs[0]).stem if configs else "titans"
    logger = {"save_dir": "runs", "name": name, "default_hp_metric": False}
    usage = {verb: {"usage": f"{PROGRAM} {verb} {KEYS}"} for verb in cli.subcommands()}
    return cli(
        TitansModule,
        DomainData,
        subclass_mode_data=True,
        trainer_class=trainer,
        auto_configure_optimizers=False,
        save_config_callback=None,  # StoreConfig does more
        seed_everything_default=0,
        trainer_defaults={
            "gradient_clip_val": 1.0,
            "logger": {"class_path": "TensorBoardLogger", "init_args": logger},
        },
        parser_class=OneLineParser,
        parser_kwargs={"prog": PROGRAM, "parser_mode": "omegaconf+", "allow_abbrev": False, **usage},
        args=[arguments.verb, *args],
        arguments=arguments,
        opened=opened,
    )


def _configured_by(content: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """The configuration that a checkpoint, which holds `content`, stands in for."""
    stored = stored_config(content, checkpoint)
    if stored is None:
        raise UserError(f"{checkpoint} holds no config; give its --config conf/NAME.yaml")
    # of the trainer only numbers: no file may choose what is written, and where
    lengths = {key: value for key, value in stored["trainer"].items() if key in LENGTHS}
    numbers = {key: value for key, value in lengths.items() if isinstance(value, int | float)}
    return {"model": stored["model"], "data": stored["data"], "trainer": numbers}
