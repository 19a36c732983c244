"""The depth-2 kernels once more, in Gluon: layouts, shared memory and asynchrony by hand, for Hopper's tensor cores."""
