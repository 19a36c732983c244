"""Small corpora on disk, small models, and the command line as a function."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.module import TitansModule
from data_prep.text import prepare
from data_prep.tokenizer import load
from domains.text import LanguageHead, TextData
from domains.text.sample import documents
from memory import BackboneConfig, MemoryConfig
from tests.data_prep.corpus import alone_in_this_process

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
SMALL = [
    *("--config", str(Path(__file__).parents[3] / "conf" / "text_lm.yaml"), "--trainer.log_every_n_steps=1"),
    *("--model.backbone.dim=16", "--model.backbone.layers=1", "--model.backbone.heads=2", "--model.backbone.window=8"),
    *("--model.backbone.segment=16", "--model.backbone.memory.chunk=4", "--model.backbone.variant=lmm"),
    *("--data.source=file", "--data.length=16", "--data.batch_size=4"),
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, and a fresh folder to work in."""
    monkeypatch.setenv("TITANS_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    alone_in_this_process(monkeypatch)
    return tmp_path / "data"


@pytest.fixture
def corpus(root: Path) -> Path:
    """A folder with a train and a validation file of generated stories."""
    folder = root / "mine"
    folder.mkdir(parents=True)
    for part, count, seed in (("train", 12, 1), ("valid", 4, 2)):
        rows = ['{"text": "%s"}' % text.strip().replace('"', "'") for text in documents(count, seed)]  # noqa: UP031
        (folder / f"{part}.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def prepared(corpus: Path) -> Path:
    """The corpus as byte tokens."""
    return prepare(str(corpus), "byte", workers=1)


@pytest.fixture
def data(prepared: Path) -> Callable[..., TextData]:
    """Builds the DataModule over the prepared corpus."""

    def build(**options: object) -> TextData:
        made = TextData(**{"folder": str(prepared), "source": "file", "length": 16, "batch_size": 4, **options})
        made.setup("fit")
        return made

    return build


@pytest.fixture
def run(corpus: Path) -> Callable:
    """`python -m app` on the prepared corpus with a small model."""
    from app.door import main

    prepare(str(corpus), "byte", workers=1)
    return lambda command, *options: main([command, *SMALL, f"--data.corpus={corpus}", *QUIET, *options])


class FromSample:
    """What a head takes from data."""

    tokenizer_name, length = "byte", 64

    def __init__(self) -> None:
        self.tokenizer = load("byte")


@pytest.fixture
def model() -> Callable[..., TitansModule]:
    """Builds an untrained model of bytes in float64."""

    def build(**options: object) -> TitansModule:
        sizes = {"dim": 16, "layers": 2, "heads": 2, "window": 5, "segment": 6, "persistent": 3}
        config = BackboneConfig(**{**sizes, "memory": MemoryConfig(heads=2, chunk=4), **options})
        torch.manual_seed(0)
        module = TitansModule(LanguageHead(16, 257), config).double().eval()
        module.head.fit_to(FromSample())
        return module

    return build
