"""What an installation without extras can do: the layer runs with PyTorch alone, the application says what it needs."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = """
import torch
from memory import BackboneConfig, MemoryConfig, NeuralMemory, TitansBackbone
y, state = NeuralMemory(16, MemoryConfig(heads=2, chunk=4))(torch.randn(1, 6, 16))
y, state = TitansBackbone(BackboneConfig(variant="mag", dim=16, heads=2))(y)
assert y.isfinite().all()
print("the layer ran")
from data_prep.__main__ import main
print(main(["text"]))
from app.door import main
main(["generate", "--ckpt", "pyproject.toml"])  # any file: it is read only once the application is there
"""


def names(requirements: list[str]) -> set[str]:
    """Distributions that are required, in the spelling of indices."""
    return {re.split(r"[^\w.-]", text)[0].replace("_", "-").lower() for text in requirements}


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess:
    """Code that ran where nothing of the extra `app` is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = names(project["optional-dependencies"]["app"]) - names(requires("torch") or [])
    absent = [module for module, owners in packages_distributions().items() if names(owners) & extra]
    assert {"lightning", "omegaconf", "pandas", "numpy", "sklearn", "Bio"} <= set(absent)
    code = f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n{CODE}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_a_wheel_holds_the_files_that_its_code_reads(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", "77", reason="setuptools of at least 77 builds the wheel")
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("app", "conf", "domains", "memory"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    with zipfile.ZipFile(tmp_path / built.stdout.splitlines()[-1]) as wheel:
        held = set(wheel.namelist())
    read = {"app/page.html", *(str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml"))}
    assert read <= held and "memory/hf/model.py" in held


def test_the_layer_needs_pytorch_alone(done: subprocess.CompletedProcess) -> None:
    assert done.stdout.startswith("the layer ran\n"), done.stderr


def test_the_application_without_its_extra_says_what_to_install(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 2 and done.stdout.splitlines()[1:] == ["2"]
    *_, data, line = done.stderr.splitlines()
    assert re.fullmatch(r"error: [\w.]+ is not installed; preparing data needs pip install -e '\.\[app\]'", data)
    assert line.startswith("error: lightning") and "the application needs pip install -e '.[app]'" in line
