"""Triton kernels of the memory; `memory.ops.fused` and `memory.ops.fused_linear` launch them."""

SIZES = ("N", "T", "H", "c0", "n", "NB")  # of a call, as kernels name them: no reason to compile one again
