"""A network in NumPy, node after node.

network     the nodes in their order, a batch at a time
operations  the formulas between the kernels: codes, adapters, pools, gates
matmul      the fast kernel: whole numbers in floating-point matrix products, exact
shift_lut   the kernel that is the specification: shifts, look-ups and additions (Eq. 18)
"""
