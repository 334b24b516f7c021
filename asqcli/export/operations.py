"""What the engine has of torch's operations: each as a method that adds nodes, with the parameters of torch's function.

Modules, functions and methods that mean the same arrive at one method, by the tables at the end.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair
from torchvision.ops import stochastic_depth

from asqcli.artifact import document as doc
from asqcli.export.integers import (
    TensorStore,
    require_integers,
    store_activations,
    store_batch_norm,
    store_weights,
)
from asqcli.export.trace import BATCH, Trace
from asqcli.nn.layers import QuantConv2d, QuantLinear, TwoStepBatchNorm2d

SUPPORTED = (
    "the engine has quantized convolutions and linear layers, batch norm, ReLU and other clamps, sigmoid, SiLU, "
    "hard sigmoid and swish, sums, products with gates, max and average pools, concatenation, slices, padding, reshape"
)


class Value(int):
    """The number of a value of the artifact; anything else that an operation gives is a constant."""


class Unsupported(Exception):
    """An operation that the engine has no node for; the reason, without its place."""


class Operations:
    """The nodes that operations become; whoever walks the graph sets `current` before each.

    Attributes:
        nodes, store: what was made so far.
        shapes: of each value, without the batch.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.store = TensorStore()
        self.nodes: list[doc.AnyNode] = []
        self.shapes: list[tuple[int, ...]] = []
        self.current: fx.Node | None = None

    def _emit(
        self,
        kind: type[doc.Node],
        *inputs: Value,
        op: str | None = None,
        name: str | None = None,
        gives: tuple[int, ...] | None = None,
        **settings,
    ) -> Value:
        """Add a node; return its value.

        Args:
            op: where `kind` stands for several.
            name: of the layer; otherwise that of the operation in the graph.
            gives: the shape of its value; otherwise that of the operation's result in the run.
        """
        if not all(isinstance(value, Value) for value in inputs):
            raise Unsupported("it computes with something that is not the network's input or made from it")
        op = op or kind.model_fields["op"].annotation.__args__[0]
        name = self.current.name if name is None else name
        self.nodes.append(kind(op=op, name=name, inputs=tuple(map(int, inputs)), **settings))
        self.shapes.append(self._batched_shape() if gives is None else gives)
        return Value(len(self.nodes))

    def _batched_shape(self) -> tuple[int, ...]:
        """Return the shape of the current result without its batch."""
        shape = tuple(self.trace.results[self.current].shape)
        if shape[:1] != (BATCH,) or len(shape) < 2:
            raise Unsupported(f"it gives a tensor of shape {shape} for a batch of {BATCH}")
        return shape[1:]

    # Layers

    def quant_layer(self, x: Value, layer: QuantConv2d | QuantLinear, name: str) -> Value:
        require_integers(name, layer)
        activations = store_activations(name, layer.activation_quantizer, self.store)
        if isinstance(layer, QuantLinear):
            if len(self.shapes[x]) != 1:
                raise Unsupported(f"its input has the shape {self.shapes[x]} for one image, not (features,)")
            weights = store_weights(name, layer, self.store)
            return self._emit(doc.Linear, x, name=name, activations=activations, weights=weights)
        if layer.padding_mode != "zeros":
            raise Unsupported(f"it pads with `{layer.padding_mode}`, and the engine with zeros")
        return self._emit(
            doc.Conv,
            x,
            name=name,
            activations=activations,
            weights=store_weights(name, layer, self.store),
            stride=tuple(layer.stride),
            padding=_borders(layer),
            dilation=tuple(layer.dilation),
            groups=layer.groups,
        )

    def batch_norm(self, x: Value, layer: TwoStepBatchNorm2d, name: str) -> Value:
        if layer.running_mean is None:
            raise Unsupported("it has no running statistics")
        g, b = store_batch_norm(name, layer, self.store)
        return self._emit(doc.BatchNorm, x, name=name, g=g, b=b)

    # Functions: parameters as torch's

    def add(self, input, other, *, alpha=1, out=None) -> Value:
        self._same_shapes(input, other)
        if alpha != 1:
            raise Unsupported("it has a factor")
        return self._emit(doc.Add, input, other)

    def mul(self, input, other) -> Value:
        for x, gate in ((input, other), (other, input)):
            if isinstance(x, Value) and isinstance(gate, Value):
                shape = self.shapes[x]
                if self.shapes[gate] == shape or (len(shape) == 3 and self.shapes[gate] == (shape[0], 1, 1)):
                    return self._emit(doc.Mul, x, gate)
        raise Unsupported("the factors are not two values of one shape, or a value and one number per channel")

    def _same_shapes(self, input, other) -> None:
        if not isinstance(input, Value) or not isinstance(other, Value):
            raise Unsupported("one of its operands is a constant")
        if self.shapes[input] != self.shapes[other]:
            raise Unsupported(f"its operands have the shapes {self.shapes[input]} and {self.shapes[other]}")

    def clamp(self, input, min=None, max=None) -> Value:
        if isinstance(min, Value) or isinstance(max, Value):
            raise Unsupported("its bounds are no constants")
        bounds = [None if bound is None or math.isinf(bound) else float(bound) for bound in (min, max)]
        return self._emit(doc.Clamp, input, low=bounds[0], high=bounds[1])

    def relu(self, input, inplace=False) -> Value:
        return self.clamp(input, 0.0)

    def hardtanh(self, input, min_val=-1.0, max_val=1.0, inplace=False) -> Value:
        return self.clamp(input, min_val, max_val)

    def relu6(self, input, inplace=False) -> Value:
        return self.clamp(input, 0.0, 6.0)

    def sigmoid(self, input) -> Value:
        return self._emit(doc.Gate, input, op="sigmoid")

    def silu(self, input, inplace=False) -> Value:
        return self._emit(doc.Gate, input, op="silu")

    def hardsigmoid(self, input, inplace=False) -> Value:
        return self._emit(doc.Gate, input, op="hardsigmoid")

    def hardswish(self, input, inplace=False) -> Value:
        return self._emit(doc.Gate, input, op="hardswish")

    def max_pool(
        self, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
    ) -> Value:
        if return_indices:
            raise Unsupported("it returns indices")
        kernel_size, padding, dilation = _pair(kernel_size), _pair(padding), _pair(dilation)
        stride = _pair(stride) if stride else kernel_size
        # `ceil_mode` asks for windows beyond the lower and right border: as much border as the last of them needs.
        borders = [
            max(0, (out - 1) * s + d * (k - 1) + 1 - n - p)
            for out, n, s, d, k, p in zip(
                self._batched_shape()[1:], self.shapes[input][1:], stride, dilation, kernel_size, padding, strict=True
            )
        ]
        return self._emit(
            doc.MaxPool,
            input,
            kernel_size=kernel_size,
            stride=stride,
            padding=(*padding, *borders),
            dilation=dilation,
        )

    def avg_pool(
        self,
        input,
        kernel_size,
        stride=None,
        padding=0,
        ceil_mode=False,
        count_include_pad=True,
        divisor_override=None,
    ) -> Value:
        if ceil_mode or divisor_override is not None:
            raise Unsupported("the engine's average pools have neither `ceil_mode` nor `divisor_override`")
        kernel_size = _pair(kernel_size)
        return self._emit(
            doc.AvgPool,
            input,
            kernel_size=kernel_size,
            stride=_pair(stride) if stride else kernel_size,
            padding=_pair(padding),
            count_include_pad=bool(count_include_pad),
        )

    def adaptive_avg_pool(self, input, output_size) -> Value:
        return self._emit(doc.AdaptiveAvgPool, input, output_size=self._batched_shape()[1:])

    def mean(self, input, dim=None, keepdim=False) -> Value:
        dims = {d % 4 for d in ((dim,) if isinstance(dim, int) else dim or ())}
        if len(self.shapes[input]) != 3 or dims != {2, 3}:
            raise Unsupported("the engine takes means over height and width together")
        pooled = self._emit(doc.AdaptiveAvgPool, input, output_size=(1, 1), gives=(self.shapes[input][0], 1, 1))
        if keepdim:
            return pooled
        return self._emit(doc.Reshape, pooled, shape=self._batched_shape())

    def reshape(self, input, *_, **__) -> Value:
        return self._emit(doc.Reshape, input, shape=self._batched_shape())

    def transpose(self, input, dim0, dim1) -> Value:
        dims = len(self.shapes[input]) + 1
        axes = tuple(d % dims - 1 for d in (dim0, dim1))
        if min(axes) < 0:
            raise Unsupported("it moves the batch")
        return self._emit(doc.Transpose, input, axes=axes)

    def concat(self, tensors, dim=0) -> Value:
        axis = self._axis(tensors[0], dim)
        return self._emit(doc.Concat, *tensors, axis=axis)

    def chunk(self, input, chunks, dim=0) -> list[Value]:
        return self._pieces(input, dim)

    def split(self, tensor, split_size_or_sections, dim=0) -> list[Value]:
        return self._pieces(tensor, dim)

    def _pieces(self, input: Value, dim: int) -> list[Value]:
        """Slice along one dimension into the sizes that the run shows."""
        axis, values, start = self._axis(input, dim), [], 0
        for piece in self.trace.results[self.current]:
            shape = tuple(piece.shape[1:])
            values.append(self._emit_slice(input, axis, slice(start, start + shape[axis], 1)))
            start += shape[axis]
        return values

    def _axis(self, value: Value, dim: int) -> int:
        axis = dim % (len(self.shapes[value]) + 1) - 1
        if axis < 0:
            raise Unsupported("it works along the batch")
        return axis

    def _emit_slice(self, input: Value, axis: int, part: slice) -> Value:
        shape = list(self.shapes[input])
        shape[axis] = len(range(part.start, part.stop, part.step))
        return self._emit(
            doc.Slice, input, axis=axis, start=part.start, stop=part.stop, step=part.step, gives=tuple(shape)
        )

    def getitem(self, input, index) -> Any:
        if not isinstance(input, Value):
            return input[index]  # of a list of pieces
        index = index if isinstance(index, tuple) else (index,)
        dims = len(self.shapes[input]) + 1
        if Ellipsis in index:
            at = index.index(Ellipsis)
            index = (*index[:at], *[slice(None)] * (dims - len(index) + 1), *index[at + 1 :])
        if not all(isinstance(i, slice) for i in index) or index[0] != slice(None):
            raise Unsupported("the engine slices along channels, height and width, and takes no single elements")
        value = input
        for axis, part in enumerate(index[1:]):
            size = self.shapes[value][axis]
            part = slice(*part.indices(size))
            if part != slice(0, size, 1):
                value = self._emit_slice(value, axis, part)
        return value

    def pad(self, input, pad, mode="constant", value=None) -> Value:
        if mode != "constant" or value not in (None, 0):
            raise Unsupported("the engine pads with zeros")
        dims = len(self.shapes[input])
        if len(pad) > 2 * dims or min(pad) < 0:
            raise Unsupported(f"it pads by {tuple(pad)}")
        pairs = [tuple(pad[i : i + 2]) for i in range(0, len(pad), 2)]  # torch names the last dimension first
        pairs = [*pairs, *[(0, 0)] * (dims - len(pairs))][::-1]
        return self._emit(doc.Pad, input, before=tuple(b for b, _ in pairs), after=tuple(a for _, a in pairs))

    def nothing(self, input, *_, **__) -> Any:
        """Dropout and the like, which evaluation passes over."""
        return input


def _borders(layer: QuantConv2d) -> tuple[int, int, int, int]:
    """Return a convolution's padding, (top, left, bottom, right)."""
    if layer.padding == "valid":
        return 0, 0, 0, 0
    if layer.padding == "same":  # as torch: the smaller half first
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        first = [total // 2 for total in totals]
        return (*first, *(total - f for total, f in zip(totals, first, strict=True)))
    return (*layer.padding, *layer.padding)


MODULES: tuple[tuple[type | tuple[type, ...], Callable], ...] = (
    ((QuantConv2d, QuantLinear), Operations.quant_layer),
    (TwoStepBatchNorm2d, Operations.batch_norm),
    (nn.ReLU6, lambda self, x, m, _: self.relu6(x)),
    (nn.Hardtanh, lambda self, x, m, _: self.hardtanh(x, m.min_val, m.max_val)),
    (nn.ReLU, lambda self, x, m, _: self.relu(x)),
    (nn.Sigmoid, lambda self, x, m, _: self.sigmoid(x)),
    (nn.SiLU, lambda self, x, m, _: self.silu(x)),
    (nn.Hardsigmoid, lambda self, x, m, _: self.hardsigmoid(x)),
    (nn.Hardswish, lambda self, x, m, _: self.hardswish(x)),
    (
        nn.MaxPool2d,
        lambda self, x, m, _: self.max_pool(
            x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
        ),
    ),
    (
        nn.AvgPool2d,
        lambda self, x, m, _: self.avg_pool(
            x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override
        ),
    ),
    (nn.AdaptiveAvgPool2d, lambda self, x, m, _: self.adaptive_avg_pool(x, m.output_size)),
    ((nn.Flatten, nn.Unflatten), lambda self, x, m, _: self.reshape(x)),
    ((nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.Identity), lambda self, x, m, _: self.nothing(x)),
)

HANDLERS: dict[Any, Callable] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), Operations.add),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"), Operations.mul),
    **dict.fromkeys((F.relu, torch.relu, F.relu_, torch.relu_, "relu", "relu_"), Operations.relu),
    **dict.fromkeys((torch.clamp, torch.clip, "clamp", "clamp_", "clip"), Operations.clamp),
    F.relu6: Operations.relu6,
    F.hardtanh: Operations.hardtanh,
    **dict.fromkeys((torch.sigmoid, F.sigmoid, "sigmoid"), Operations.sigmoid),
    F.silu: Operations.silu,
    F.hardsigmoid: Operations.hardsigmoid,
    F.hardswish: Operations.hardswish,
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), Operations.max_pool),
    F.avg_pool2d: Operations.avg_pool,
    F.adaptive_avg_pool2d: Operations.adaptive_avg_pool,
    **dict.fromkeys((torch.mean, "mean"), Operations.mean),
    **dict.fromkeys(
        (torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, "flatten", "reshape", "view", "squeeze"),
        Operations.reshape,
    ),
    **dict.fromkeys(("unsqueeze", "unflatten", torch.unflatten), Operations.reshape),
    **dict.fromkeys((torch.transpose, "transpose"), Operations.transpose),
    **dict.fromkeys((torch.cat, torch.concat), Operations.concat),
    **dict.fromkeys((torch.chunk, "chunk"), Operations.chunk),
    **dict.fromkeys((torch.split, "split"), Operations.split),
    operator.getitem: Operations.getitem,
    F.pad: Operations.pad,
    **dict.fromkeys((F.dropout, F.dropout2d, stochastic_depth, "contiguous", "float", "clone"), Operations.nothing),
}
