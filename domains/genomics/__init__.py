"""Classification of DNA of any length (Titans section 5.5)."""

from domains.genomics.data import GenomicsData
from domains.genomics.head import SequenceHead

__all__ = ["GenomicsData", "SequenceHead"]
