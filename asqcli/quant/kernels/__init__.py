"""The passes of fake quantizers over memory, each of them in one place for autograd to call.

Forward, three forms give the same values to the bit; backward, the same gradients but for rounding:

    native     compiled C, in `csrc/`: each value is read once a pass; for float32 on the CPU
    cuda       kernels of Triton, `triton_source.py`: the same on a GPU, where Triton works
    eager      operations of PyTorch, for all else: other devices and types, no compiler
    dispatch   whichever serves the tensors at hand

    adapted    ASQ in C: the adapter in the same pass as the rounding; adapted_cuda, the same on a GPU
    answers    an adapter as both take it, and what it makes of a batch
    memory     how tensors lie, and what shares a scale
    grid       what a value in units of its scale can become
"""
