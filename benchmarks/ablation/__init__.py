"""What `python -m benchmarks.ablation` needs."""
