"""Tasks of DNA that no file holds as they are trained on, and `python -m benchmarks.genomics`."""

from benchmarks.genomics.mitochondria import MitochondriaData
from benchmarks.genomics.planted import PlantedData

__all__ = ["MitochondriaData", "PlantedData"]
