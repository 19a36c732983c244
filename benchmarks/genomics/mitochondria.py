"""Vertebrate mitochondrial genomes, with the parts of a table."""

from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd

from data_prep.files import data_root
from data_prep.genomics import PARTS
from domains.genomics import GenomicsData
from domains.genomics.parts import by_split
from domains.genomics.readers import Layout, read_records
from domains.genomics.records import Records

SET = "vertebrates_mtdna"


class MitochondriaData(GenomicsData):
    """Whole mitochondrial genomes of vertebrates in five classes, those of one group in one part.

    Classes stand in the headers of the FASTA, parts in a table, where some genomes are in several sets.

    Args:
        batch_size: sequences per step, over all devices.
        max_length: the few longer ones are cut to their first bases.
        floors: fit the floors of the data report.
    """

    def __init__(self, batch_size: int = 32, max_length: int = 20480, floors: bool = True) -> None:
        self.folder = data_root() / "genomics" / "mldsp"
        super().__init__(
            train=str(self.folder / f"{SET}.fasta.xz"),
            layout=Layout(label_from="header"),
            batch_size=batch_size,
            max_length=max_length,
            floors=floors,
        )

    @cached_property
    def records(self) -> dict[str, Records]:
        """All genomes of the table, by part."""
        records = read_records(self.folder / f"{SET}.fasta.xz", self.layout)
        table = pd.read_csv(self.folder / "splits.csv.gz", dtype=str)
        names = table[table["set"] == SET].set_index("accession")["split"].reindex(records.ids)
        parts = names.map({theirs: ours for ours, theirs in PARTS.items()})
        return by_split(replace(records, splits=np.array(parts, dtype=object)))
