"""What `python -m benchmarks.harness` needs."""
