"""What `python -m benchmarks.timeseries` needs."""
