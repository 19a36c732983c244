"""The door: which verbs there are, what a checkpoint chooses, and that asking for help costs no import."""

import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import pytest

import domains
from app.door import Call, main, old_spellings, read, respelled
from app.help import parser_of
from app.verbs import SHARED, registered

ROOT = Path(__file__).parents[2]
VERBS = ("fit", "validate", "test", "predict", "backtest", "generate", "embed", "explain", "export", "surprise")
LIGHT = """
import sys
from app.door import main
for args in (["--help"], *([verb, "--help"] for verb in sys.argv[1:])):
    main(args)
try:
    main(["generate", "--ckpt", "nope.ckpt"])
except SystemExit as end:
    assert end.code == 2
heavy = {"torch", "lightning", "jsonargparse", "numpy", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture
def fourth(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy domain as `domains.toy`, as if its folder lay beside the others."""
    monkeypatch.setattr(domains.__spec__, "submodule_search_locations", [*domains.__path__, str(Path(__file__).parent)])
    monkeypatch.setattr(domains, "__path__", domains.__spec__.submodule_search_locations)


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    """Two seconds are allowed for each page; all of them together take less."""
    start = perf_counter()
    shown = subprocess.run([sys.executable, "-c", LIGHT, *VERBS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert perf_counter() - start < 2 * len(VERBS)
    for verb in VERBS:
        assert f"\n  {verb:<10}" in shown.stdout and f"            python -m app {verb} " in shown.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_begins_with_its_own_options(verb: str, capsys: pytest.CaptureFixture) -> None:
    main([verb, "--help"])
    page = capsys.readouterr().out
    assert page.startswith(f"usage: python -m app {verb} ") and page.count("--ckpt FILE") >= 1
    assert len(page.splitlines()) < 50 and f"  python -m app {verb} " in page and "--trainer.max_epochs" not in page


def test_examples_are_command_lines_that_their_parsers_take() -> None:
    for domain in registered():
        for verb in domain.verbs:
            name, *words = shlex.split(verb.example)
            assert name == verb.name
            if name != "predict":
                arguments = read(verb, Call(name, words, ""))
                assert arguments.ckpt or verb.keys


def test_every_key_is_listed_when_asked_for(run: Callable, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--help", "all"])
    assert "--trainer.max_epochs" in capsys.readouterr().out


def test_an_unknown_verb_is_one_line(refused: Callable) -> None:
    line = refused("fti")
    assert line.startswith("error: there is no verb fti; choose fit, validate, test, predict, export, embed, explain")


def test_a_missing_or_unknown_option_is_one_line(refused: Callable) -> None:
    assert "required: --ckpt" in refused("generate")
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "--ckpt", "x", "--promt", "a"])


def test_the_checkpoint_may_stand_first(capsys: pytest.CaptureFixture) -> None:
    for words in (["export", "nope.ckpt", "out"], ["export", "out", "--ckpt=nope.ckpt"], ["test", "nope.ckpt"]):
        with pytest.raises(SystemExit, match="2"):
            main(words)
        assert "--ckpt: there is no file nope.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "--input=a", "--output=b"],
        ["surprise", "a", "--output=b"],
        ["surprise", "c", "--ckpt=a", "--output=b"],
        ["generate", "--context=a", "--save=b"],
        ["effects", "--input=a", "--output=c", "--vcf=b"],
    ],
)
def test_nothing_that_is_read_is_written_over(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_text("mine")
    Path("b").symlink_to("a")
    verbs = [*SHARED, *(verb for domain in registered() for verb in domain.verbs)]
    name, *rest = words
    verb = next(verb for verb in verbs if verb.name == name)
    with pytest.raises(SystemExit, match="2"):
        read(verb, Call(name, ["--ckpt=x", *rest], ""))
    assert ": b is what --" in capsys.readouterr().err
    if name == "generate":  # whose state goes on in its place
        assert read(verb, Call(name, ["--ckpt=x", "--state=a", "--save=b"], "")).save


def test_a_fourth_domain_brings_its_verbs_along(
    fourth: None, run: Callable, refused: Callable, capsys: pytest.CaptureFixture
) -> None:
    """One folder and one YAML: no file of the application or of another domain knows of it."""
    Path("fourth.yaml").write_text(Path("toy.yaml").read_text().replace("toy.", "domains.toy."))
    run("fit", "--config", "fourth.yaml", "--trainer.max_epochs=1", "--sampled=true")
    said = capsys.readouterr()
    assert "--sampled is spelled --data.sample now" in said.err and "GENERATED sample data" in said.out
    checkpoint = "runs/fourth/version_0/checkpoints/best.ckpt"
    main(["--help"])
    assert "for models of toy:\n  weigh " in capsys.readouterr().out
    main(["weigh", "--ckpt", checkpoint, "--unit=g"])
    assert capsys.readouterr().out.endswith(" g\n")
    main(["predict", "--ckpt", checkpoint, "--input", "fourth.yaml", "--output", "length.csv"])
    assert int(Path("length.csv").read_text().split()[1]) == len(Path("fourth.yaml").read_text())


def test_a_checkpoint_of_another_domain_is_refused(fourth: None, run: Callable, capsys: pytest.CaptureFixture) -> None:
    run("fit", "--config", "toy.yaml", "--trainer.max_epochs=1")
    checkpoint = "runs/toy/version_0/checkpoints/best.ckpt"
    for command, says in (
        (["generate"], "this is for a LanguageHead"),
        (["predict", "--input=x"], "leave --input out"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*command, "--ckpt", checkpoint])
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"error: {checkpoint}: holds a ") and "ToyHead" in line and says in line


def test_an_old_spelling_answers_with_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "embed", "best.ckpt", "new.fa", "out.csv", "--piece", "9"])
    new = "type: python -m app embed --ckpt best.ckpt --input new.fa --output out.csv --piece 9$"
    with pytest.raises(SystemExit, match=new):
        runpy.run_module("domains.genomics", run_name="__main__")


def test_words_of_an_option_are_joined_by_underscores(capsys: pytest.CaptureFixture) -> None:
    kept = ["--prompt=--not-an-option", "--data.layout.id_col=a-b", "--model.head.scales.a-b=2", "-c", "y"]
    words = ["--top-p", "0.9", "--ckpt_path", "x", *kept]
    new = ["--top_p", "0.9", "--ckpt", "x", *kept]
    assert respelled(words, old_spellings([])) == new
    told = capsys.readouterr().err
    assert "--top-p is spelled --top_p now" in told and "--ckpt_path is spelled --ckpt now" in told
    assert len(told.splitlines()) == 2
    verbs = [*SHARED, *(verb for domain in registered() for verb in domain.verbs)]
    options = [option for verb in verbs for action in parser_of(verb)._actions for option in action.option_strings]
    assert not [option for option in options if "-" in option.lstrip("-")]
