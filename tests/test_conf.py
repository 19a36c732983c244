"""The files in conf/ say every value once."""

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.door import main
from app.layers import chain
from benchmarks.shared.runs import resolved

CONF = Path(__file__).parent.parent / "conf"
UNSAID = re.compile(r"^( *)# ([a-z_]+: )", re.MULTILINE)


def values(config: dict[str, Any], key: str = "") -> list[tuple[str, str]]:
    """(dotted key, value) of all leaves of a config but the names of its bases."""
    found = []
    for name, value in config.items():
        if isinstance(value, dict):
            found += values(value, f"{key}.{name}")
        elif name != "base":
            found.append((f"{key}.{name}", repr(value)))
    return found


def copies(files: list[Path]) -> dict[tuple[str, str], int]:
    """How often each value stands in these files beside its first time."""
    counts = Counter(pair for file in files for pair in values(yaml.safe_load(file.read_text())))
    return {pair: count - 1 for pair, count in counts.items() if count > 1}


def test_few_values_stand_in_two_files() -> None:
    files = sorted(CONF.rglob("*.yaml"))
    domains = {file.stem.split("_")[0] for file in files}
    within = {name: copies([file for file in files if file.stem.split("_")[0] == name]) for name in domains}
    assert sum(sum(found.values()) for found in within.values()) <= 11, within
    # The others are numbers that unlike domains happen to share, such as a width of 64 or a rate of .001. Values that
    # stand in several domains for one reason have a file in conf/base/; a file for each of these would explain nothing.
    assert sum(copies(files).values()) <= 38, copies(files)


@pytest.mark.parametrize("config", sorted(CONF.glob("*_*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_overrides_its_bases_and_repeats_nothing_of_them(config: Path) -> None:
    *bases, own = (yaml.safe_load(file.read_text()) for file in chain(str(config)))
    below = {key: value for base in bases for key, value in values(base)}
    assert bases and not [key for key, value in values(own) if below.get(key) == value]


@pytest.mark.parametrize("config", ["timeseries_ett", "text_shakespeare", "genomics_fasta"])
def test_what_a_base_shows_behind_a_sign_is_what_the_code_takes(config: str, tmp_path: Path) -> None:
    shown = shutil.copytree(CONF, tmp_path / "conf")
    found = 0
    for base in (shown / "base").glob("*.yaml"):
        text, count = UNSAID.subn(r"\1\2", base.read_text())
        base.write_text(text)
        found += count
    assert found > 40
    said, unsaid = (resolved(["--config", str(folder / f"{config}.yaml")]) for folder in (shown, CONF))
    assert said == unsaid


def test_a_head_of_one_domain_takes_no_data_of_another(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--config", str(CONF / "text_lm.yaml"), "--data.class_path=domains.genomics.GenomicsData"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: model.head domains.text.LanguageHead reads no domains.genomics.GenomicsData; give")
    with pytest.raises(SystemExit, match="2"):
        main(["backtest", "--config", str(CONF / "text_lm.yaml")])
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: backtest is for models of domains.timeseries, and model.head is domains.text.")
    with pytest.raises(SystemExit, match="2"):
        main(["test"])
    assert "required: test.model.head, test.data; give --config" in capsys.readouterr().err
