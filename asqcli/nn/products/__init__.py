"""Convolutions in training by compiled passes: whole numbers forward, and gradients that cost less than PyTorch's.

product     the function of autograd, and when a layer has it
winograd    gradients of 3x3 convolutions
depthwise   depthwise convolutions and their gradients
images      products of codes whose input needs no gradient, as the first layer's of images
bindings    the compiled passes, as ctypes sees them
csrc/       their source in C

A dense convolution's forward is by the engine's kernels (`asqcli.engine.native.batch`).
"""
