"""What `python -m benchmarks.throughput` needs."""
