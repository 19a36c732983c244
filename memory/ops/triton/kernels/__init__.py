"""Triton kernels of the memory and of what surrounds it; the modules of `memory.ops` launch them."""

# of a call, as kernels name them: no reason to compile one again
SIZES = ("B", "N", "R", "T", "H", "c0", "n", "span", "spans", "NB")
