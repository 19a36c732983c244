"""Triton kernels of the memory; `memory.ops.fused` and `memory.ops.fused_linear` launch them."""
