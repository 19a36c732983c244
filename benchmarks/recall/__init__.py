"""What `python -m benchmarks.recall` needs."""
