"""The command line: a domain in one folder and one YAML, checkpoints, results, and errors of one line."""

import json
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from app import module as app_module
from app.cli import TitansCLI, default_precision
from app.module import TitansModule
from app.restore import CheckedRestore
from app.trainer import TitansTrainer

TOY = ("--config", "toy.yaml")
ONE = ("--trainer.max_epochs=1",)


def weights(path: str) -> dict[str, torch.Tensor]:
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def test_a_training_that_reached_no_validation_names_its_last_checkpoint(
    run: Callable, capsys: pytest.CaptureFixture
) -> None:
    run("fit", *TOY, "--trainer.max_epochs=-1", "--trainer.max_steps=1")
    assert "last checkpoint: runs/toy/version_0/checkpoints/last.ckpt (no validation" in capsys.readouterr().out


def test_a_domain_is_one_folder_and_one_yaml(run: Callable, capsys: pytest.CaptureFixture) -> None:
    """fit, test, predict and validate, each finding the run that fit left."""
    fitted = run("fit", *TOY)
    folder = Path("runs/toy/version_0")
    assert {path.name for path in folder.rglob("*.ckpt")} == {"best.ckpt", "last.ckpt"}
    assert fitted.model.head.scale == 2.0  # what fit_to took from the data
    assert "best checkpoint: " in capsys.readouterr().out

    tested = run("test", *TOY)
    assert tested.model.head.scale == 2.0 and tested.model.head.columns  # came with the checkpoint
    out = capsys.readouterr().out
    assert "checkpoint: runs/toy/version_0/checkpoints/best.ckpt" in out
    assert "this run" in out and out.index("oracle") < out.index("zero") and "data=sample" not in out
    results = json.loads((folder / "results.json").read_text())
    assert results["metrics"].keys() == {"test/mse"} and results["published"]["zero"] == {"mse": 0.04}
    assert results["data"] == {"data": "toy", "sha256": "2.0", "samples": 50} and results["seed"] == 0
    assert results["config"]["model"]["backbone"]["dim"] == 8 and results["versions"]["torch"] == version("torch")
    assert results["command"].startswith("python -m app test --config toy.yaml")
    assert results["parameters"] == sum(p.numel() for p in tested.model.parameters())
    assert {"device", "precision", "checkpoint", "date"} <= results.keys()

    run("predict", *TOY)
    assert len(pd.read_csv(folder / "predictions.csv")) == 50
    run("validate", *TOY, "--ckpt", "last")
    assert "last.ckpt" in capsys.readouterr().out
    assert [path.name for path in Path("runs/toy").iterdir()] == ["version_0"]  # only fit opens a new run


def test_a_checkpoint_is_enough_and_read_once(
    run: Callable, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    monkeypatch.setattr(app_module, "damage", lambda path: reads.append(str(path)))
    run("fit", *TOY, *ONE, "--data.samples=20", "--model.backbone.dim=12")
    moved = Path("moved.ckpt")
    Path("runs/toy/version_0/checkpoints/best.ckpt").rename(moved)
    predicted = run("predict", "--ckpt", str(moved), "--data.sample=true")
    table = pd.read_csv("predictions.csv")
    assert predicted.model.backbone.config.dim == 12 and len(table) == 20
    assert set(table["data"]) == {"sample"} and "GENERATED sample data" in capsys.readouterr().out
    assert run("test", "--ckpt", str(moved)).config["test"]["data"]["init_args"]["samples"] == 20
    assert reads == ["moved.ckpt"] * 2  # once a command
    results = json.loads(Path("results.json").read_text())
    assert results["checkpoint"] == "moved.ckpt"
    assert results["command"].startswith("python -m app test --ckpt moved.ckpt")

    loaded = TitansModule.load_from_checkpoint(moved)  # as Lightning users do
    assert torch.equal(loaded.head.out.weight, weights("moved.ckpt")["head.out.weight"])


def test_the_newest_run_with_a_checkpoint_counts(run: Callable, refused: Callable) -> None:
    line = refused("test", *TOY)
    assert "no best checkpoint under runs/toy" in line and "run `fit` first" in line
    for number in (2, 10, 9):
        run("fit", *TOY, *ONE, f"--trainer.logger.version={number}")
    Path("runs/toy/version_11").mkdir()  # a run that broke off before its first checkpoint
    assert run("validate", *TOY).checkpoint == Path("runs/toy/version_10/checkpoints/best.ckpt")


def test_resuming_equals_never_stopping(run: Callable) -> None:
    """Bit for bit, with dropout, shuffling and a cosine over the whole run."""
    run("fit", *TOY)
    run("fit", *TOY, "--trainer.callbacks+=toy.Stop")  # the machine goes away after one epoch of two
    resumed = run("fit", *TOY, "--ckpt", "last")
    assert resumed.trainer.log_dir == "runs/toy/version_1" and resumed.trainer.current_epoch == 2
    straight, stopped = (weights(f"runs/toy/version_{n}/checkpoints/last.ckpt") for n in (0, 1))
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)
    assert not Path("runs/toy/version_2").exists()


def test_resuming_in_the_middle_of_an_epoch_goes_on_with_the_next_batch(run: Callable) -> None:
    inside = (*TOY, "--trainer.val_check_interval=2")
    run("fit", *inside)
    stopped = run("fit", *inside, "--trainer.callbacks+=toy.StopInside")
    assert stopped.trainer.global_step == 2
    run("fit", *inside, "--ckpt", "last")
    straight, resumed = (weights(f"runs/toy/version_{n}/checkpoints/last.ckpt") for n in (0, 1))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_validating_less_often_than_an_epoch_ends_is_one_line(refused: Callable) -> None:
    told = refused("fit", *TOY, "--trainer.val_check_interval=99")
    assert "trainer.val_check_interval is 99 steps, and an epoch has fewer: lower it, or set" in told


def test_results_tell_how_the_checkpoint_was_trained(run: Callable, capsys: pytest.CaptureFixture) -> None:
    run("fit", *TOY, *ONE, "--seed_everything=7", "--model.backbone.memory.chunk=2")
    run("test", *TOY, "--trainer.limit_test_batches=1")
    out = capsys.readouterr().out
    assert "trained with model.backbone.memory.chunk=2, this command says 4" in out and "PARTIAL" in out
    results = json.loads(Path("runs/toy/version_0/results.json").read_text())
    assert results["seed"] == 7 and results["config"]["model"]["backbone"]["memory"]["chunk"] == 2
    assert results["overruled"] == {"model.backbone.memory.chunk": 4} and results["partial"]
    assert "oracle" not in out  # a part of the test set stands beside nobody's score


def test_last_is_written_by_a_validation_that_brought_nothing(run: Callable) -> None:
    run("fit", *TOY, "--model.optim.lr=1e-30")
    epochs = {p.stem: torch.load(p, weights_only=True)["epoch"] for p in Path("runs").rglob("*.ckpt")}
    assert epochs == {"best": 0, "last": 1}


def test_layered_configs_and_overrides(run: Callable) -> None:
    """A later --config or --key wins, what interpolates it follows, and the run keeps the first config's name."""
    config = yaml.safe_load(Path("toy.yaml").read_text())
    config["model"]["optim"] = {"final": "${data.init_args.share}"}
    config["data"]["init_args"] = {"share": 0.5}
    Path("named.yaml").write_text(yaml.safe_dump(config))
    Path("more.yaml").write_text("trainer: {fast_dev_run: true}\ndata: {init_args: {share: 0.25}}\n")
    cli = run("fit", "--config", "named.yaml", "--config", "more.yaml")
    assert cli.model.optim.final == 0.25 and cli.trainer.fast_dev_run
    assert cli.config["fit"]["trainer"]["logger"]["init_args"]["name"] == "named"
    assert run("fit", "--config", "named.yaml", "--config", "more.yaml", "--data.share=1").model.optim.final == 1


def test_the_yaml_may_name_the_run(run: Callable) -> None:
    config = yaml.safe_load(Path("toy.yaml").read_text())
    logger = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "elsewhere"}}
    logger["init_args"]["name"] = "toy_${data.init_args.samples}"
    config["trainer"]["logger"] = logger
    Path("named.yaml").write_text(yaml.safe_dump(config))
    run("fit", "--config", "named.yaml", *ONE, "--data.samples=20")
    expected = Path("elsewhere/toy_20/version_0/checkpoints/best.ckpt")
    assert run("test", "--config", "named.yaml", "--data.samples=20").checkpoint == expected


def test_a_checkpoint_never_overrules_the_command_line(run: Callable) -> None:
    run("fit", *TOY, *ONE)
    path = "runs/toy/version_0/checkpoints/best.ckpt"
    for config in (TOY, ()):
        tested = run("test", *config, "--ckpt", path, "--model.backbone.memory.backend", "reference")
        assert tested.model.backbone.config.memory.backend == "reference"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("--model.backbone.dmi=3", "unrecognized arguments: --model.backbone.dmi=3"),
        ("--trainer.max_epoch=3", "unrecognized arguments: --trainer.max_epoch=3"),
        ("--model.head.dims=3", "Option 'dims' is not accepted"),
        ("--model.head.class_path=toy.Nope", "module 'toy' has no attribute 'Nope'"),
        ("--data.samples=forty", "Expected a <class 'int'>. Got value: forty"),
        ("--model.backbone.variant=titan", "backbone.variant is 'titan'; choose lmm, mac, mag, mal, attention, swa"),
        ("--model.backbone.variant=app.Titan", "backbone.variant app.Titan: module 'app' has no attribute 'Titan'"),
        ("--model.backbone.dim=9", "backbone.dim 9 is not divisible by backbone.memory.heads 2"),
        ("--model.backbone.memory.backend=triton", "memory.backend triton does not serve"),
        ("--model.optim.lr=-1", "optim.lr is -1.0; it must be positive"),
        ("--trainer.logger=[1]", 'Parser key "trainer.logger": Not a valid subclass of Logger'),
        ("--trainer.logger=[1]", "- Expected a <class 'bool'>; give its class_path and init_args"),
        (
            "--trainer.callbacks={a: 1}",
            "key \"trainer.callbacks\": Expected a <class 'list'> - Problem with given class_path",
        ),
        (
            "--trainer.limit_val_batches={}",
            "limit_val_batches\": Expected a <class 'int'> - Expected a <class 'float'>",
        ),
        ("--config=nope.yaml", "File does not exist"),
        ("--trainer.strategy=dpd", "invalid strategy name"),
        ("--ckpt=nope.ckpt", "there is no file nope.ckpt"),
        ("--trainer.logger.name=${data.nope}", "data.nope"),
        ("--trainer.max_epochs=-1", "the schedule needs the length of the run"),
        ("--data.broken=true", "toy.csv, line 3: not a number; mend it"),
    ],
)
def test_a_mistake_is_one_line(refused: Callable, wrong: str, says: str) -> None:
    assert says in refused("fit", *TOY, wrong)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("trainer: {max_epoch: 1}", "max_epoch"),
        ("model: {backbone: {dmi: 1}}", "dmi"),
        ("trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitor: x, patiance: 1}}]}", "'patiance'"),
        ("trainer: {max_epochs: '${data.nope}'}", "data.nope"),
    ],
)
def test_a_mistake_in_a_yaml_is_one_line(refused: Callable, text: str, says: str) -> None:
    Path("wrong.yaml").write_text(text)
    assert says in refused("fit", *TOY, "--config", "wrong.yaml")


def test_a_bug_keeps_its_traceback(run: Callable, refused: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="a bug"):
        patch.setattr(TitansModule, "training_step", lambda *_: (_ for _ in ()).throw(ValueError("a bug")))
        run("fit", *TOY, *ONE)
    monkeypatch.setenv("TITANS_DEBUG", "1")
    with pytest.raises(ValueError, match="toy.csv"):
        run("fit", *TOY, "--data.broken=true")


def test_a_checkpoint_that_does_not_fit_is_one_line(run: Callable, refused: Callable) -> None:
    run("fit", *TOY, *ONE)
    line = refused("test", *TOY, "--model.head.class_path=toy.OtherHead")
    assert "toy.ToyHead" in line and "toy.OtherHead" in line
    line = refused("test", *TOY, "--model.backbone.dim=16")
    assert "weight is (8, 24), not (16, 48); " in line and line.endswith(" more") and len(line) < 400
    Path("broken.ckpt").write_bytes(Path("runs/toy/version_0/checkpoints/best.ckpt").read_bytes()[:1000])
    damaged = re.compile(r"broken.ckpt.* checkpoint.*; train again or name another file")
    assert damaged.search(refused("test", "--ckpt", "broken.ckpt"))
    assert damaged.search(refused("test", *TOY, "--ckpt", "broken.ckpt"))
    Path("broken.ckpt").write_text("junk")
    assert damaged.search(refused("test", *TOY, "--ckpt", "broken.ckpt"))


def test_print_config_is_complete_and_resolved(run: Callable, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        run("fit", *TOY, "--print_config")
    config = yaml.safe_load(capsys.readouterr().out)
    assert not stop.value.code
    assert config["trainer"]["gradient_clip_val"] == 1.0 and config["seed_everything"] == 0
    assert config["trainer"]["logger"]["init_args"]["name"] == "toy"


@pytest.mark.parametrize(("cuda", "bf16", "accelerator", "precision"), [
    (True, True, "auto", "bf16-mixed"),
    (True, True, "cpu", "32-true"),
    (True, False, "gpu", "32-true"),
    (False, False, "auto", "32-true"),
])  # fmt: skip
def test_precision(monkeypatch: pytest.MonkeyPatch, cuda: bool, bf16: bool, accelerator: str, precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert default_precision(accelerator) == precision


def test_the_private_methods_that_are_overridden_exist() -> None:
    for name in ("_parse_ckpt_path", "_prepare_subcommand_kwargs", "_prepare_subcommand_parser"):
        assert callable(getattr(TitansCLI.__mro__[1], name))
    for name in ("_restore_modules_and_callbacks", "restore_training_state"):
        assert callable(getattr(CheckedRestore.__mro__[1], name))
    assert isinstance(TitansTrainer(logger=False)._checkpoint_connector, CheckedRestore)
