"""Triton kernels of the two-layer memory; `memory.ops.fused` launches them."""
