"""How samples are dealt out to devices and batches."""

import pytest
import torch

from app.data import DomainData, ShardedBatches, run_seed
from app.errors import UserError, is_for_user


def deal(samples: int, batch_size: int, training: bool, world: int, epoch: int = 0) -> list[list[torch.Tensor]]:
    """The batches of every device."""
    dealt = []
    for rank in range(world):
        sampler = ShardedBatches(range(samples), batch_size, training, replicas=world, rank=rank)
        sampler.set_epoch(epoch)
        dealt.append(list(sampler))
        assert len(dealt[-1]) == len(sampler)
    return dealt


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("samples", [3, 5, 6, 7, 23, 24, 25, 100])
@pytest.mark.parametrize("batch_size", [1, 2, 6, 12])
def test_evaluation_sees_every_sample_once(world: int, samples: int, batch_size: int) -> None:
    dealt = deal(samples, batch_size, training=False, world=world)
    assert len({len(batches) for batches in dealt}) == 1
    assert all(len(batch) for batches in dealt for batch in batches)
    assert torch.cat([batch for batches in dealt for batch in batches]).tolist() == list(range(samples))
    if batch_size >= world > 1:  # the bound on memory holds, but for devices that must wait with one sample
        assert max(len(batch) for batches in dealt for batch in batches) <= max(batch_size // world, 1) + 1


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("samples", [24, 25, 100])
def test_any_number_of_devices_trains_on_the_same_batches(world: int, samples: int) -> None:
    (alone,) = deal(samples, 12, training=True, world=1)
    dealt = list(zip(*deal(samples, 12, training=True, world=world), strict=True))
    assert [torch.cat(shares).tolist() for shares in dealt] == [batch.tolist() for batch in alone]
    assert all(len(batch) == 12 for batch in alone) and len(alone) == samples // 12
    assert {len(share) for shares in dealt for share in shares} <= {12 // world, -(-12 // world)}


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_set_smaller_than_a_batch_is_one_batch(world: int) -> None:
    dealt = deal(5, 12, training=True, world=world)
    assert sorted(index for (batch,) in dealt for index in batch.tolist()) == [0, 1, 2, 3, 4]


def test_order_depends_on_seed_and_epoch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def order(seed: str, epoch: int) -> list[int]:
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        torch.rand(3)  # what the run drew before must not matter
        return torch.cat(deal(50, 5, training=True, world=1, epoch=epoch)[0]).tolist()

    assert order("0", 1) == order("0", 1)
    assert len({tuple(order(seed, epoch)) for seed in ("0", "1") for epoch in (0, 1)}) == 4
    assert run_seed(1, 2) != run_seed(2, 1)


def test_what_devices_cannot_share_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size 2 cannot be shared by 3 devices"):
        deal(50, 2, training=True, world=3)
    with pytest.raises(UserError, match="2 samples cannot be shared by 3 devices"):
        deal(2, 10, training=False, world=3)


def test_only_errors_of_reading_data_are_the_users() -> None:
    class Data(DomainData):
        def provenance(self) -> dict[str, object]:
            return {}

        def setup(self, stage: str) -> None:
            raise ValueError("line 3")

        def train_dataloader(self) -> None:
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="line 3") as read:
        Data().setup("fit")
    with pytest.raises(ValueError, match="a bug") as bug:
        Data().train_dataloader()
    assert is_for_user(read.value) and not is_for_user(bug.value)


def test_a_domain_that_does_not_say_where_its_data_come_from_cannot_be_built() -> None:
    class Data(DomainData):
        pass

    with pytest.raises(TypeError, match="provenance"):
        Data()
