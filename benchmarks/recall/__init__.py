"""Associative recall: generated sequences, a head that answers where it is asked, and `python -m benchmarks.recall`."""

from benchmarks.recall.data import RecallData
from benchmarks.recall.head import RecallHead

__all__ = ["RecallData", "RecallHead"]
