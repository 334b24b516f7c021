"""Quantized layers, and how they get into a network.

calls     what a network calls, in which order, on inputs of which shape
survey    run the float network once: which layers execute, in which order, on how many channels
prepare   replace them by quantized layers, as a plan says
layers    the quantized layers; their evaluation is the integer engine's arithmetic, operation by operation
"""
