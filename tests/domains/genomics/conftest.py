"""Small files of DNA, and a head and backbone that read them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.module import TitansModule
from domains.genomics import GenomicsData, SequenceHead
from memory import BackboneConfig, MemoryConfig


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a text file below the test's folder."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def sample() -> GenomicsData:
    data = GenomicsData(source="sample", floors=False, batch_size=16)
    data.setup()
    return data


@pytest.fixture
def model() -> Callable[..., TitansModule]:
    """Builds an untrained classifier of three classes in evaluation mode."""

    def model(variant: str = "lmm", dim: int = 16, **options: object) -> TitansModule:
        torch.manual_seed(1)
        config = BackboneConfig(variant, dim, 1, heads=2, window=8, segment=8, memory=MemoryConfig(heads=2, chunk=4))
        return TitansModule(SequenceHead(dim, 3, **options), config).eval()

    return model
