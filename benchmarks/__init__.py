"""Measurements: `python -m benchmarks.NAME` takes one, `python -m benchmarks` says which results miss their mark."""
