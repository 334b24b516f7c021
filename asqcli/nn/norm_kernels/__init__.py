"""Batch norm in training by kernels of our own: each value is read and written once a pass, whatever its type.

batch_norm     the function of autograd, when it serves, and the context in which networks call it
native         its passes on a CPU, and their source in C (csrc/)
cuda           the same on a GPU
triton_source  these, as Triton compiles them
"""
