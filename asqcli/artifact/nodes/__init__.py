"""The kinds of node that a graph is made of. Each says in one place what is known of it; FORMAT.md, what it computes.

base         what every kind must say: its tensors, wrong inputs, the shape of its value, the work
layers       convolution and linear layer: activations, weights, adapters
elementwise  batch norm, clamps, gates, sums, products
pools        largest values and averages of windows
movement     reshape, transpose, concat, slice, pad
kinds        all of them together, and a guard for tables by kind
"""

from asqcli.artifact.nodes.base import Node
from asqcli.artifact.nodes.elementwise import Add, BatchNorm, Clamp, Div, Gate, LeakyRelu, Mul, PRelu
from asqcli.artifact.nodes.kinds import KINDS, AnyNode, for_every_kind
from asqcli.artifact.nodes.layers import Activations, Adapter, AdapterLayer, Conv, Linear, QuantizedLayer, Weights
from asqcli.artifact.nodes.movement import Concat, Pad, Reshape, Slice, Transpose
from asqcli.artifact.nodes.pools import AdaptiveAvgPool, AvgPool, MaxPool

__all__ = [
    "KINDS", "Activations", "Adapter", "AdapterLayer", "AdaptiveAvgPool", "Add", "AnyNode", "AvgPool", "BatchNorm",
    "Clamp", "Concat", "Conv", "Div", "Gate", "LeakyRelu", "Linear", "MaxPool", "Mul", "Node", "PRelu",
    "Pad", "QuantizedLayer", "Reshape", "Slice", "Transpose", "Weights", "for_every_kind",
]  # fmt: skip
