"""What `python -m benchmarks.kernel` needs."""
