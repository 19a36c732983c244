"""What needs Triton: the operators, how they are launched, and the kernels."""
