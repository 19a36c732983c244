"""The classifier: masks, strands, directions, pooling, and what travels in a checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.module import TitansModule
from domains.genomics import GenomicsData, SequenceHead
from domains.genomics.bases import N, Sequences, reverse_complement
from domains.genomics.data import Batch
from domains.genomics.pooling import Pooling
from domains.genomics.stem import convolve
from domains.genomics.stream import Reader

Model = Callable[..., TitansModule]
LENGTHS = [1, 5, 8, 23, 40]


def sequences(lengths: list[int] = LENGTHS) -> Sequences:
    random = torch.Generator().manual_seed(5)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Sequences(torch.randint(4, (int(offsets[-1]),), dtype=torch.uint8, generator=random), offsets)


def batched(found: Sequences, rows: list[int], width: int) -> Batch:
    index = torch.tensor(rows)
    lengths = found.lengths[index]
    return Batch(found.gather(index, width), lengths if int(lengths.min()) < width else None)


OPTIONS = [
    {},
    {"read": "forward", "conv_layers": 0},
    {"read": "strands", "pool": "attention"},
    {"stride": 4, "bins": 3},
    {"stride": 3, "read": "strands", "bins": 2, "pool": "attention"},
    {"reverse_complement": "average", "conv_width": 5},
]


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal", "attention", "swa"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_company_and_padding_change_no_answer(model: Model, variant: str, options: dict) -> None:
    module, found = model(variant, **options), sequences()
    alone = torch.cat([module(batched(found, [row], length)) for row, length in enumerate(LENGTHS)])
    together = module(batched(found, [0, 1, 2, 3, 4], 40))
    padded = module(batched(found, [4, 3, 2, 1, 0], 57)).flip(0)
    for other in (together, padded):
        torch.testing.assert_close(alone, other, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone.exp().sum(1), torch.ones(5))


@pytest.mark.parametrize("read", ["forward", "directions", "strands"])
@pytest.mark.parametrize("options", [{}, {"pool": "attention", "bins": 2, "stride": 3}], ids=str)
@torch.no_grad()
def test_averaging_makes_both_strands_equal(model: Model, read: str, options: dict) -> None:
    batch = batched(sequences(), [0, 1, 2, 3, 4], 40)
    other = Batch(reverse_complement(batch.bases, batch.lengths), batch.lengths)
    for key, equal in (("average", True), ("none", False)):
        module = model(read=read, reverse_complement=key, **options)
        gap = (module(batch).exp() - module(other).exp()).abs().max()
        assert (gap < 1e-5) == equal


@pytest.mark.parametrize(("read", "passes"), [("forward", 2), ("directions", 4), ("strands", 2)])
def test_averaged_strands_are_read_once_each_or_twice(model: Model, read: str, passes: int) -> None:
    """Strands that read each other need no backward readings: half of what `directions` asks of the backbone."""
    module = model(read=read, reverse_complement="average")
    seen = []
    module.backbone.register_forward_pre_hook(lambda backbone, args: seen.append(len(args[0])))
    Reader(module, torch.device("cpu"), 4096).read(sequences([9, 9, 9]))
    assert seen == [3 * passes]


def test_both_readings_share_their_weights(model: Model) -> None:
    reads = ("forward", "directions", "strands")
    count = [sum(p.numel() for p in model(read=read).backbone.parameters()) for read in reads]
    assert count[0] == count[1] == count[2]


@pytest.mark.parametrize("read", ["directions", "strands"])
def test_the_first_base_knows_the_last(model: Model, read: str) -> None:
    """In a forward reading nothing before the last base can depend on it."""
    batch = batched(sequences([24]), [0], 24)
    changed = Batch(batch.bases.clone(), None)
    changed.bases[0, -1] = (changed.bases[0, -1] + 1) % 4
    for kind, knows in (("forward", False), (read, True)):
        module = model(read=kind, conv_layers=0)
        hidden = [module.backbone(module.head.embed(b)[0])[0] for b in (batch, changed)]
        first = hidden[0][0, 0], hidden[1][0, 0]
        assert torch.equal(*first)
        if knows:  # what the second pass holds at the first base: its last token
            assert not torch.allclose(hidden[0][1, -1], hidden[1][1, -1])


def test_order_matters(model: Model) -> None:
    """Reversed, not complemented, input gives another answer: the model is no bag of bases."""
    module, batch = model(), batched(sequences([40]), [0], 40)
    assert (module(batch) - module(Batch(batch.bases.flip(1), None))).abs().max() > 1e-4


def test_training_draws_strands_and_hides_bases(model: Model) -> None:
    batch = batched(sequences([40] * 8), list(range(8)), 40)
    module = model(read="forward", reverse_complement="augment", conv_layers=0, dropout=0.0)
    plain = module.head.embed(batch)[0]
    other = module.head.embed(Batch(reverse_complement(batch.bases, None), None))[0]
    module.train()
    drawn = module.head.embed(batch)[0]
    which = (drawn == plain).all(2).all(1)
    assert 0 < which.sum() < 8 and torch.equal(drawn[~which], other[~which])
    module = model(read="forward", hide=0.5, conv_layers=0, dropout=0.0).train()
    hidden = (module.head.embed(batch)[0] == 0).all(2).float().mean()
    assert 0.4 < hidden < 0.6
    module.eval()
    assert not (module.head.embed(batch)[0] == 0).all(2).any()


def test_n_is_zero_and_weights_of_letters_give_the_same(model: Model) -> None:
    module = model()
    assert (module.head.stem.embedding.weight[N] == 0).all()
    batch = batched(sequences(), [2, 3], 25)
    weights = torch.nn.functional.one_hot(batch.bases.long(), 5).float()
    torch.testing.assert_close(module(batch), module(Batch(weights, batch.lengths)))


def test_pooled_vectors_are_standardised_and_one_sequence_trains(model: Model) -> None:
    module = model(dropout=0.0)
    vectors = 5 + 0.01 * torch.randn(64, 32, generator=torch.Generator().manual_seed(2))  # far from 0, little apart
    together = module.head.train().norm(vectors)
    torch.testing.assert_close(together.mean(0), torch.zeros(32), rtol=0, atol=1e-3)
    torch.testing.assert_close(together.std(0, correction=0), torch.full((32,), 1.0), rtol=0, atol=0.1)
    before = module.head.norm.running_mean.clone()
    alone = module.head.norm(vectors[:1])
    torch.testing.assert_close(alone, module.head.eval().norm(vectors[:1]))
    assert torch.equal(before, module.head.norm.running_mean)
    module.train()
    module.head.loss(module(batched(sequences(), [4], 40)), Batch(None, None, torch.tensor([1]))).backward()
    assert all(p.grad is not None for p in module.head.norm.parameters())


@pytest.mark.parametrize("kind", ["mean", "attention"])
@pytest.mark.parametrize("bins", [1, 3])
def test_pieces_pool_to_the_whole(kind: str, bins: int) -> None:
    pooling = Pooling(4, kind, bins)
    hidden, tokens = torch.randn(3, 10, 4), torch.tensor([10, 7, 1])
    whole = pooling(hidden, tokens).mean()
    pieces = pooling(hidden[:, :4], tokens) + pooling(hidden[:, 4:5], tokens, 4) + pooling(hidden[:, 5:], tokens, 5)
    torch.testing.assert_close(pieces.mean(), whole)
    if (kind, bins) == ("mean", 1):
        torch.testing.assert_close(whole[:, 0], torch.stack([hidden[i, :n].mean(0) for i, n in enumerate(tokens)]))
    if bins == 3:
        assert (whole[2].abs().sum(1) > 0).sum() == 1  # one token lies in one part, the others are zero
        torch.testing.assert_close(pooling(hidden[1:2], tokens[1:2]).mean()[0], whole[1])


def test_a_checkpoint_alone_names_the_classes(tmp_path: Path, sample: GenomicsData) -> None:
    head = SequenceHead(8, sample.output_size)
    head.fit_to(sample)
    torch.save(head.state_dict(), tmp_path / "head.pt")
    loaded = SequenceHead(8, 3)
    loaded.load_state_dict(torch.load(tmp_path / "head.pt", weights_only=True))
    assert loaded.classes == ["gata", "none", "tata"]
    loaded.check(sample)
    loaded.task.names = ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"classes are \['gata', 'none', 'tata'\], the checkpoint's \['a', 'b', 'c'\]"):
        loaded.check(sample)


def test_metrics_and_details_count_every_row(model: Model) -> None:
    head = model().head
    head.task.names = ["a", "b", "c"]
    truth, found = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 1, 2, 2, 2])
    output = torch.nn.functional.one_hot(found, 3).float().mul(4).log_softmax(1)
    metrics = head.metrics()
    for half in (slice(0, 2), slice(2, 6)):
        head.update(metrics, output[half], Batch(torch.zeros(1), None, truth[half]))
    values = metrics.compute()
    assert values["accuracy"].item() == pytest.approx(5 / 6)
    assert set(values) == {"accuracy", "mcc", "macro_f1", "auroc", "auprc", "confusion", "answers"}
    two = head.metrics()  # no row of class c: it counts for nothing
    head.update(two, output[:3], Batch(torch.zeros(1), None, truth[:3]))
    assert [two.compute()[name].item() for name in ("macro_f1", "auroc", "auprc", "mcc")] == [1, 1, 1, 1]
    details = head.details({"confusion": values["confusion"]})
    assert details["confusion"] == [[2, 0, 0], [0, 1, 1], [0, 0, 2]]
    assert details["classes"]["b"] == {"rows": 2, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    assert set(head.task.figures(values)) == {"confusion", "curves", "reliability"}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"stride": 0}, "head.stride"), ({"conv_width": 4}, "conv_width odd"), ({"bins": 0}, "head.bins is 0")],
)
def test_wrong_sizes_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequenceHead(8, 2, **options)


@pytest.mark.parametrize("width", [1, 9])
def test_without_gradients_a_convolution_base_by_base_is_the_convolution(width: int) -> None:
    convolution, rows = torch.nn.Conv1d(16, 16, width, padding=width // 2), torch.randn(3, 7, 16)
    wanted = convolve(rows, convolution)
    assert wanted.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(convolve(rows, convolution), wanted.detach(), rtol=1e-5, atol=2e-6)


def test_sequences_of_unequal_length_pass_a_few_tokens_at_a_time(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    module, sizes = model(reverse_complement="average"), []
    whole = Reader(module, torch.device("cpu"), 200).read(sequences())
    monkeypatch.setattr("domains.genomics.stream.TOKENS_AT_ONCE", 48)
    module.backbone.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[:2].numel()))
    for a, b in zip(Reader(module, torch.device("cpu"), 200).read(sequences()), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
    assert max(sizes) <= 48 < sum(sizes)
