"""A run's network measured for its report.

run       all of it, and what is missing with the reason
network   the network of a run, and the test images that it is measured on
weights   what rounding does to weights, and which levels they use
inputs    what rounding does to activations, image by image, and what the adapters answer
outputs   what reaches the end of each block, beside the same network without quantizers
engine    bytes and time of each layer as exported
spread    many numbers to few
"""
