"""Weights in files that other programs wrote: opened without running their code, and brought to a network's names.

file          a path to what is in it, whole        stand_ins     what is let through beside tensors, and kept inert
tree          that content by places               layout        the tree to the state dict that a network's names fit
"""
