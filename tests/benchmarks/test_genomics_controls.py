"""Controls of the DNA benchmark: they look up and see what they should, keep the budget, and ignore padding."""

from itertools import product
from pathlib import Path

import pytest
import torch

from app.module import TitansModule
from benchmarks.genomics.kmers import LENGTHS, KmerHead, entries
from benchmarks.genomics.legnet import LegNetHead
from benchmarks.shared.runs import resolved
from domains.genomics import SequenceHead
from domains.genomics.data import Batch
from memory import BackboneConfig, MemoryConfig

HEADS = [LegNetHead, KmerHead]
CONFIG = str(Path(__file__).parents[2] / "conf" / "genomics_gue.yaml")


def options(head: type[SequenceHead]) -> list[str]:
    """Of `fit`, as a reader of the table would type them."""
    name = f"{head.__module__}.{head.__name__}"
    mixer = "--model.backbone.variant=benchmarks.genomics.tokenwise.Nothing"
    return ["--config", CONFIG, f"--model.head={name}", "--model.head.read=forward", mixer]


def control(head: type[SequenceHead], *changes: str) -> TitansModule:
    """The model that options of `fit` describe."""
    torch.manual_seed(0)
    model = resolved([*options(head), *changes])["model"]
    assert model["head"]["class_path"].endswith(head.__name__)
    backbone = model["backbone"] | {"memory": MemoryConfig(**model["backbone"]["memory"])}
    return TitansModule(head(backbone["dim"], 2, **model["head"]["init_args"]), BackboneConfig(**backbone)).eval()


@pytest.mark.parametrize("head", HEADS)
def test_a_control_keeps_the_budget_and_the_options_of_the_head(head: type[SequenceHead]) -> None:
    module = control(head, "--model.backbone.layers=1", "--model.head.stride=16")
    assert 4e5 < sum(p.numel() for p in module.parameters()) <= 1e6
    assert (module.head.stem.stride, module.head.hide, module.head.pooling.bins) == (16, 0.1, 7)


@pytest.mark.parametrize("head", HEADS)
def test_padding_changes_no_answer_of_a_control(head: type[SequenceHead]) -> None:
    module = control(head, "--model.backbone.layers=1")
    with torch.no_grad():
        for buffer in module.buffers():  # norms of a trained model are not the identity
            buffer.add_(torch.rand_like(buffer.float()).to(buffer.dtype))
    bases = torch.randint(4, (2, 40), dtype=torch.uint8)
    bases[1, 25:] = 4
    together = module(Batch(bases, torch.tensor([40, 25])))
    alone = module(Batch(bases[1:, :25], None))
    torch.testing.assert_close(together[1:], alone)


def test_every_short_kmer_has_an_entry_of_its_own_and_none_with_n_has_one() -> None:
    kmers = torch.tensor(list(product(range(4), repeat=4)), dtype=torch.uint8)
    found = entries(kmers, 4, 256, 1)
    assert sorted(found[:, 3].tolist()) == [*range(1, 257)]
    assert (found[:, :3] == 0).all()  # cut off
    kmers[:, 1] = 4
    assert (entries(kmers, 4, 256, 1) == 0).all()


def test_a_long_kmer_has_the_same_entry_everywhere_and_hashes_differ() -> None:
    bases = torch.randint(4, (1, 500), dtype=torch.uint8)
    bases[0, 300:311] = bases[0, 20:31]
    first, second = (entries(bases, 11, 4096, prime) for prime in (2654435761, 2246822519))
    assert first[0, 30] == first[0, 310] and second[0, 30] == second[0, 310]
    assert first[0, 10:].min() > 0 and first.max() <= 4096
    assert (first != second).float().mean() > 0.9
    assert len(first.unique()) > 400  # 490 of them fall into 4,096 entries


def test_a_base_knows_the_kmers_that_end_at_it() -> None:
    stem = control(KmerHead).head.stem
    bases = torch.randint(4, (1, 30), dtype=torch.uint8)
    changed = bases.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 4
    differs = (stem(bases, None) != stem(changed, None)).any(-1)[0].nonzero().flatten().tolist()
    assert differs == [*range(12, 12 + max(LENGTHS))]


def test_legnet_sees_the_whole_sequence_through_its_mean_only() -> None:
    stem = control(LegNetHead).head.stem
    bases = torch.randint(4, (1, 400), dtype=torch.uint8)
    changed = bases.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 4
    far = (stem(bases, None) - stem(changed, None))[0, 300:]
    assert far.abs().max() > 0
    for block in stem.blocks:
        block.excite.weight.data.zero_()  # every channel weighs the same, whatever the sequence holds
    far = (stem(bases, None) - stem(changed, None))[0, 300:]
    assert far.abs().max() == 0
