"""An artifact to ONNX: the same integers, in standard operators that any runtime has.

model   the file: graph, metadata, checks
nodes   each kind of node to the operators of its formula, in a table
layers  those of convolutions and linear layers
pools   those of pools
scope   what they write into: one node's operators under its name
graph   operators and constants with unique names

The package onnx itself is an extra that not everybody has, and is imported inside of functions.
"""

from asqcli.export.onnx.model import is_own_onnx, require_onnx, write_onnx

__all__ = ["is_own_onnx", "require_onnx", "write_onnx"]
