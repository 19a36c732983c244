"""What `python -m benchmarks.language` needs."""
