"""What `python -m benchmarks.genomics` needs."""
