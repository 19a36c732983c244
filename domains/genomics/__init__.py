"""Classification of DNA of any length (Titans section 5.5), and pretraining on DNA without classes."""

from domains.genomics.classifier import Classifier
from domains.genomics.data import GenomicsData
from domains.genomics.genome import GenomeData
from domains.genomics.head import SequenceHead
from domains.genomics.next_base import NextBaseHead

__all__ = ["Classifier", "GenomeData", "GenomicsData", "NextBaseHead", "SequenceHead"]
