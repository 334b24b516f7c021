"""A network on a C kernel of ../csrc: a plan of fused steps, made once, and run for each image.

network       plans: images side by side, or threads together on one
threads       those threads
execute       a plan, run on images, or step by step for an observer
bindings      the C interface through ctypes
batch         one convolution by itself on a batch, by levels that change: what training multiplies by

planner       a network's nodes to an array of steps
fusion        which nodes are one step, and in which order
values        where each value lies, and the steps that write them
convolutions  steps of convolutions: packed weights, adapters, epilogues
copies        steps that only move numbers: slices, pads, channel shuffles
layout        how codes and weights lie in memory
winograd      3x3 convolutions with fewer products, exact
pools         windows of pools
memory        what the steps point to
"""
