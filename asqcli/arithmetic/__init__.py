"""Fixed arithmetic: pools, gates and adapters in one stated order, so that all sides give the same bits.

float32 matrix products change with the batch, library reductions with the processor, and `exp` with the library. What
lies between the quantized layers is small, so it is computed in double, in an order written here, by additions,
multiplications and divisions alone, and rounded once at the end. FORMAT.md says the same in words, and the C kernels
and ONNX files compute it.

constants   the numbers; C has them in engine/csrc/constants.h
division    by numbers, rounded once on a GPU, too
windows     which pixels a pool averages
formulas    one text for NumPy and torch, and without either
torch_mode  puts the formulas in the place of torch's functions while a network evaluates
"""
