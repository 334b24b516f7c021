"""Quantized layers, and how they get into a network.

calls       which modules a network calls, in which order, on inputs of which shape
callers     which module called a function, and where in its author's source
record      one run, written down function by function: what export lowers and a proof compares
modes       evaluation for a while
survey      run the float network once: which layers can be quantized, on how many channels
head        the layer that makes the logits, and another in its place for other classes
calibration signedness and starting values of the quantizers
adapters    those that were trained in a network of other bits, which go on
prepare     replace them by quantized layers, as their specs say
step_sizes  what an update may do to steps and thresholds
proof       find out from records whether the network calls these, and nothing in their place
observed    quantized layers seen at work, or switched to float for a while
layers      the quantized layers; their evaluation is the integer engine's arithmetic, operation by operation
geometry    how a convolution goes over its input
products/   convolutions in training by compiled passes, and their gradients
norms       batch norm in training, and as a multiplication and an addition
norm_calls  a network's calls of batch norm in training, for who computes them otherwise
norm_kernels/  batch norm in training on a GPU
precision   what convolutions and linear layers multiply in while they train
layer_calls the functions of torch that layers consist of, as a forward calls them
derived     twins of layers whose class an author derived from torch's: quantized around that call
"""
