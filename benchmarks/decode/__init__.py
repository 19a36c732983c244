"""What `python -m benchmarks.decode` needs."""
