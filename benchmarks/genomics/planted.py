"""A needle test for range in DNA: motifs far apart in windows of a real genome, made where they are read."""

import hashlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch.utils.data import DataLoader, Dataset

from app.data import DomainData, ShardedBatches
from app.devices import device_count, device_rank
from data_prep.files import data_root
from domains.genomics.bases import LETTERS
from domains.genomics.data import Batch
from domains.genomics.readers import read_records
from domains.genomics.sample import ORDERS, planted_orders, planted_pairs

# Distance that training begins with, by the number of motifs. Two begin in neighbouring tokens. The order of three is
# there what convolutions see, and training never came to need the memory for it.
SHORTEST = {2: 16, 3: 64}
MORE = 4  # times as many sequences in a batch, at most, while the distance is shorter than the one that is asked
ROWS = 1024  # sequences of a round of training, counted at the distance that is asked
EVALUATED = {"val": 200, "test": 1000}  # sequences, less those that fill no batch: at 131,072 bases 195 and 990
BASES = 2_000_000  # of an evaluated batch, at most
ENDS = {"train": 0.8, "val": 0.88, "test": 1.0}  # shares of the genome where the stretch of each part ends

Made = tuple[str, int, int, int]  # a batch to be made: its part, a seed, a distance, and how many sequences


class Recipes(Dataset):
    """What batches are made from, in place of sequences.

    Args:
        part: of the genome.
        rows: sequences.
        classes: how many there are.
    """

    def __init__(self, part: str, rows: int, classes: int) -> None:
        self.part = part
        self.rows = rows
        self.labels = torch.arange(classes)  # each in as many sequences as any other, on the average

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, made: Made) -> Made:
        return made


class GrowingDistances(ShardedBatches):
    """Batches whose distance grows over the rounds: a quarter of them at the shortest, half while it doubles, and the
    last quarter at the distance that is asked. Evaluation is always at that one, and always of the same sequences.

    Args:
        data: what it deals out.
        part: of the genome.
    """

    def __init__(self, data: "PlantedData", part: str) -> None:
        super().__init__(
            Recipes(part, EVALUATED.get(part, ROWS), data.output_size), data.batch_size, training=part == "train"
        )
        self.part = part
        self.data = data

    def __len__(self) -> int:
        return super().__len__() if self.shuffle else self.samples // self._evaluated

    @property
    def _evaluated(self) -> int:
        """Sequences of an evaluated batch."""
        return max(1, min(BASES // self.data.distance, 100))

    def _training(self) -> Iterator[Made]:
        rounds = self.data.rounds
        doublings = (self.data.distance // self.data.shortest).bit_length() - 1
        grown = min(max(2 * self.epoch / rounds - 0.5, 0), 1)  # 0 for a quarter of the rounds, 1 for the last quarter
        distance = self.data.shortest << round(doublings * grown)
        rows = self.batch_size * min(self.data.distance // distance, MORE)
        seed = (self.data.seed * rounds + self.epoch) * ROWS
        first = self.start
        self.start = 0
        for step in range(first, len(self)):
            yield self.part, seed + step, distance, rows

    def _evaluation(self) -> Iterator[Made]:
        for seed in range(len(self)):
            yield self.part, 2**31 + seed, self.data.distance, self._evaluated


class PlantedData(DomainData):
    """Whether two motifs, planted `distance` bases apart, are the same one; or in which order three of them follow.

    Training sequences are new at every step; those of training, validation and test are windows of different stretches
    of E. coli's genome. They are made on the device that reads them, whose random numbers they are drawn from.

    Args:
        distance: bases from motif to motif in validation and test; a power of two, at least SHORTEST.
        motifs: two, or three whose order is one of ORDERS.
        batch_size: sequences per step, over all devices, at that distance; up to four times as many at shorter ones.
        rounds: of training, the same as trainer.max_epochs.
        seed: of the training sequences.
    """

    task = "classes"
    input_size = len(LETTERS)

    def __init__(
        self, distance: int = 8192, motifs: Literal[2, 3] = 2, batch_size: int = 32, rounds: int = 40, seed: int = 0
    ) -> None:
        super().__init__()
        self.shortest = SHORTEST[motifs]
        if distance < self.shortest or distance.bit_count() != 1:
            raise ValueError(f"data.distance is {distance}; give a power of two of at least {self.shortest}")
        self.distance = distance
        self.classes = ["different", "same"] if motifs == 2 else [*ORDERS]
        self.output_size = len(self.classes)
        self.plant = planted_pairs if motifs == 2 else planted_orders
        self.batch_size = batch_size
        self.rounds = rounds
        self.seed = seed

    def setup(self, stage: str | None = None) -> None:
        """Read the genome."""
        genome = read_records(data_root() / "genomics" / "genomes" / "ecoli_W.fasta.gz").sequences.codes
        ends = [int(share * len(genome)) for share in ENDS.values()]
        self.genome = {part: genome[start:end] for part, start, end in zip(ENDS, [0, *ends], ends, strict=False)}
        self.parts = {part: Recipes(part, ROWS, self.output_size) for part in ENDS}
        self.sha256 = hashlib.sha256(genome.numpy().tobytes()).hexdigest()

    def on_after_batch_transfer(self, batch: Made, dataloader_idx: int) -> Batch:
        """Make the sequences of a batch, of which each device keeps its share."""
        part, seed, distance, rows = batch
        assert self.trainer is not None, "a batch is transferred by the trainer that reads it"
        device = self.trainer.strategy.root_device
        self.genome[part] = self.genome[part].to(device)
        sequences, labels = self.plant(self.genome[part], rows, distance, seed)
        own = slice(device_rank(), None, device_count())
        return Batch(sequences.codes.view(rows, -1)[own], None, labels[own])

    def _loader(self, part: str) -> DataLoader:
        sampler = GrowingDistances(self, part)
        return DataLoader(sampler.dataset, sampler=sampler, batch_size=None)

    def train_dataloader(self) -> DataLoader:
        """Sequences of growing distance."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        """Sequences at the distance that is asked."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Sequences in another stretch of the genome."""
        return self._loader("test")

    def provenance(self) -> dict[str, object]:
        """The distance, and a checksum of the genome."""
        name = "planted pair" if self.plant is planted_pairs else "order of three"
        return {"data": f"{name} at {self.distance:,}", "sha256": self.sha256}
