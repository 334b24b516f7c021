"""An artifact to ONNX: the same integers, in standard operators that any runtime has.

model   the file: graph, metadata, checks
nodes   each kind of node to the operators of its formula
graph   operators and constants with unique names

The package onnx itself is imported inside of functions, by `import onnx`: it is an extra that not everybody has.
"""

from asqcli.export.onnx.model import is_own_onnx, require_onnx, write_onnx

__all__ = ["is_own_onnx", "require_onnx", "write_onnx"]
