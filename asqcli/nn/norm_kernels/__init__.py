"""Batch norm in training on a GPU, by kernels of our own: each value is read and written once a pass.

batch_norm     the function of autograd, when it serves, and the context in which networks call it
cuda           its passes
triton_source  these, as Triton compiles them
"""
