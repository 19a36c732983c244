"""A config's key `base`."""

from pathlib import Path

import pytest
import yaml

from app.door import main

BASE = "model: {backbone: {dim: 16, layers: 3}, optim: {lr: 0.5}}\ntrainer: {max_steps: 7}\n"
TOP = "base: below/base.yaml\nmodel: {backbone: {layers: 2}}\n"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A config beside the toy domain's own, which stands on another in a folder."""
    (tmp_path / "below").mkdir()
    toy = (Path(__file__).parent / "toy.yaml").read_text()
    (tmp_path / "toy.yaml").write_text(toy)
    (tmp_path / "below" / "base.yaml").write_text(f"base: ../toy.yaml\n{BASE}")
    (tmp_path / "top.yaml").write_text(TOP)
    return tmp_path / "top.yaml"


def resolved(capsys: pytest.CaptureFixture, *args: str) -> dict:
    with pytest.raises(SystemExit) as end:
        main(["fit", *args, "--print_config"])
    assert not end.value.code
    return yaml.safe_load(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture, *args: str) -> str:
    with pytest.raises(SystemExit, match="2"):
        main(["fit", *args])
    return capsys.readouterr().err.splitlines()[-1]


def test_a_config_stands_on_its_base_and_that_on_its_own(top: Path, capsys: pytest.CaptureFixture) -> None:
    found = resolved(capsys, "--config", str(top))
    assert (found["model"]["backbone"]["dim"], found["model"]["backbone"]["layers"]) == (16, 2)
    assert found["trainer"]["max_steps"] == 7 and found["data"]["class_path"]  # of the toy's
    assert "base" not in found  # the printed config is whole, wherever it is kept


def test_of_several_bases_the_later_lies_above_and_what_they_share_below(
    top: Path, capsys: pytest.CaptureFixture
) -> None:
    (top.parent / "beside.yaml").write_text("base: below/base.yaml\nmodel: {backbone: {layers: 4}}\n")
    both = top.parent / "both.yaml"
    both.write_text("base: [top.yaml, beside.yaml]\n")
    assert resolved(capsys, "--config", str(both))["model"]["backbone"]["layers"] == 4
    both.write_text("base: [beside.yaml, top.yaml]\nmodel: {optim: {lr: 0.1}}\n")
    found = resolved(capsys, "--config", str(both))
    assert found["model"]["backbone"]["layers"] == 2 and found["model"]["optim"]["lr"] == 0.1


def test_a_config_means_the_same_after_another(top: Path, capsys: pytest.CaptureFixture) -> None:
    alone = resolved(capsys, "--config", str(top), "--model.optim.lr=0.1")
    toy = str(top.parent / "toy.yaml")
    after = resolved(capsys, "--config", toy, "--config", str(top), "--model.optim.lr=0.1")
    for config in (alone, after):
        config["trainer"]["logger"] = None  # named after the first config
    assert alone == after and alone["model"]["optim"]["lr"] == 0.1


def test_a_base_that_is_not_there_or_stands_on_itself_is_one_line(top: Path, capsys: pytest.CaptureFixture) -> None:
    (top.parent / "below" / "base.yaml").write_text("base: ../top.yaml\n")
    assert "stands on itself" in refused(capsys, "--config", str(top))
    (top.parent / "below" / "base.yaml").unlink()
    assert f"base: there is no file {top.parent / 'below' / 'base.yaml'}" in refused(capsys, "--config", str(top))
    for wrong in ("3", "[toy.yaml, 3]"):
        top.write_text(f"base: {wrong}\n")
        assert "base" in refused(capsys, "--config", str(top))


def test_a_wrong_key_of_a_base_is_refused(top: Path, capsys: pytest.CaptureFixture) -> None:
    (top.parent / "below" / "base.yaml").write_text("base: ../toy.yaml\nmodel: {backbone: {dmi: 3}}\n")
    assert "dmi" in refused(capsys, "--config", str(top))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"- a\n", "it holds no keys with values"),
        (b"# gr\xfc\xdfe\nbase: toy.yaml\n", "can't decode byte 0xfc in position 4"),
        (b"trainer:\n\tmax_steps: 1\n", "line 2, column 1"),
        (b"trainer:\n  max_steps: 1\nmodel: {}\ntrainer: {}\n", "line 4: trainer stands twice; keep one"),
        (b"model: {optim: {lr: 1, lr: 2}}\n", "line 1: lr stands twice"),
        (b"trainer: &a [{b: *a}]\n", "line 1: an alias stands for what it stands in"),
    ],
)
def test_a_file_that_is_no_config_is_named(top: Path, capsys: pytest.CaptureFixture, content: bytes, says: str) -> None:
    below = top.parent / "below" / "base.yaml"
    below.write_bytes(content)
    told = refused(capsys, "--config", str(top))
    assert str(below) in told and says in told


def test_what_is_no_group_of_keys_is_refused(top: Path, capsys: pytest.CaptureFixture) -> None:
    for key, wrong in (("trainer", "[1]"), ("model.backbone.memory", "[]"), ("model.optim", "null")):
        groups = key.split(".")
        top.write_text("base: toy.yaml\n" + ": {".join(groups) + f": {wrong}" + "}" * (len(groups) - 1))
        for behind in ((), ("--trainer.max_steps=3", "--model.optim.lr=1", "--model.backbone.memory.depth=1")):
            told = refused(capsys, "--config", str(top), *behind)
            assert f"error: {top} line 2: {key} holds no keys; give it some, or leave it out" in told
        text = top.read_text().partition("\n")[2]  # as a checkpoint carries it: no file is to be named
        told = refused(capsys, "--config", str(top.parent / "toy.yaml"), "--config", text)
        assert f"{key} is {yaml.safe_load(wrong)}; it must hold keys" in told


def test_what_a_file_says_wrongly_is_told_with_its_name(top: Path, capsys: pytest.CaptureFixture) -> None:
    below = top.parent / "below" / "base.yaml"
    for wrong, says in (
        ("'': 3", 'Empty nested key: "".'),
        ("3: 4", "Key must be a string, got: 3."),
        ("model: {backbone: {dim: x}}", "Parser key \"model.backbone.dim\": Expected a <class 'int'>. Got value: x"),
    ):
        below.write_text(f"base: ../toy.yaml\n{wrong}\n")
        assert f"error: {below}: {says}" in refused(capsys, "--config", str(top))
    told = refused(capsys, "--config", str(top.parent / "toy.yaml"), "--model.backbone.dim=x")
    assert 'error: Parser key "model.backbone.dim"' in told


def test_base_is_no_option_of_the_command_line(top: Path, capsys: pytest.CaptureFixture) -> None:
    assert "this is a key of files" in refused(capsys, "--config", str(top), "--base", "x.yaml")
