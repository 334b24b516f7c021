"""Batch norm in training on a GPU, by kernels of our own: each value is read and written once a pass.

cuda           the function of autograd, when it serves, and the context in which networks call it
triton_source  its passes, as Triton compiles them
"""
