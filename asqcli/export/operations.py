"""What the engine has of torch's operations: each as a method that adds nodes, with the parameters of torch's function.

Functions and methods that mean the same arrive at one method, by the table at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from asqcli.artifact import nodes
from asqcli.export.integers import (
    TensorStore,
    require_integers,
    store_activations,
    store_batch_norm,
    store_weights,
)
from asqcli.nn.layers import QuantConv2d, QuantLinear, TwoStepBatchNorm2d, quantized_layer
from asqcli.nn.record import Operation, Record

SUPPORTED = (
    "the engine has quantized convolutions and linear layers, batch norm, ReLU and other clamps, sigmoid, SiLU, "
    "hard sigmoid and swish, sums, products with gates, max and average pools, concatenation, slices, padding, reshape"
)


class Value(int):
    """The number of a value of the artifact; anything else that an operation gives is a constant."""


class Unsupported(Exception):
    """An operation that the engine has no node for; the reason, without its place."""


class Operations:
    """The nodes that operations become; whoever walks the record sets `current` before each.

    Attributes:
        nodes, store: what was made so far.
        shapes: of each value, without the batch.
        layers: the names of the network's modules.
        current, name: the operation in work, and what its node is called unless it is a layer.
    """

    def __init__(self, record: Record, store: TensorStore) -> None:
        self.record, self.store = record, store
        self.nodes: list[nodes.AnyNode] = []
        self.shapes: list[tuple[int, ...]] = []
        self.layers = {module: name for name, module in record.model.named_modules()}
        self.current: Operation | None = None
        self.name = ""

    def _emit(
        self,
        kind: type[nodes.Node],
        *inputs: Value,
        op: str | None = None,
        name: str | None = None,
        gives: tuple[int, ...] | None = None,
        **settings,
    ) -> Value:
        """Add a node; return its value.

        Args:
            op: where `kind` stands for several.
            name: of the layer; otherwise that of the operation.
            gives: the shape of its value; otherwise that of the operation's result in the run.
        """
        if not all(isinstance(value, Value) for value in inputs):
            raise Unsupported("it computes with something that is not the network's input or made from it")
        op = op or kind.model_fields["op"].annotation.__args__[0]
        name = self.name if name is None else name
        self.nodes.append(kind(op=op, name=name, inputs=tuple(map(int, inputs)), **settings))
        self.shapes.append(self._batched_shape() if gives is None else gives)
        return Value(len(self.nodes))

    def _batched_shape(self) -> tuple[int, ...]:
        """Return the shape of the current result without its batch."""
        result, batch = self.current.result, len(self.record.input)
        if result.dtype != torch.float32:
            raise Unsupported(f"it computes in {result.dtype}, and the engine in torch.float32")
        shape = tuple(result.shape)
        if shape[:1] != (batch,) or len(shape) < 2:
            raise Unsupported(f"it gives a tensor of shape {shape} for a batch of {batch}")
        return shape[1:]

    # Layers

    def layer(self, layer: QuantConv2d | QuantLinear | TwoStepBatchNorm2d, x: Value) -> Value:
        if not isinstance(x, Value):
            raise Unsupported("it computes with something that is not the network's input or made from it")
        if (name := self.layers.get(layer)) is None:
            raise Unsupported("it is no layer of the network")
        if isinstance(layer, TwoStepBatchNorm2d):
            return self._batch_norm(x, layer, name)
        return self._product(x, layer, name)

    def _product(self, x: Value, layer: QuantConv2d | QuantLinear, name: str) -> Value:
        require_integers(name, layer)
        activations = self.store.once(store_activations, name, layer.activation_quantizer)
        weights = self.store.once(store_weights, name, layer)
        if isinstance(layer, QuantLinear):
            if len(self.shapes[x]) != 1:
                raise Unsupported(f"its input has the shape {self.shapes[x]} for one image, not (features,)")
            return self._emit(nodes.Linear, x, name=name, activations=activations, weights=weights)
        if layer.padding_mode != "zeros":
            raise Unsupported(f"it pads with `{layer.padding_mode}`, and the engine with zeros")
        return self._emit(
            nodes.Conv,
            x,
            name=name,
            activations=activations,
            weights=weights,
            stride=tuple(layer.stride),
            padding=_borders(layer),
            dilation=tuple(layer.dilation),
            groups=layer.groups,
        )

    def _batch_norm(self, x: Value, layer: TwoStepBatchNorm2d, name: str) -> Value:
        if layer.running_mean is None:
            raise Unsupported("it has no running statistics")
        g, b = self.store.once(store_batch_norm, name, layer)
        return self._emit(nodes.BatchNorm, x, name=name, g=g, b=b)

    # Functions: parameters as torch's

    def add(self, input, other, *, alpha=1, out=None) -> Value:
        self._same_shapes(input, other)
        if alpha != 1:
            raise Unsupported("it has a factor")
        return self._emit(nodes.Add, input, other)

    def mul(self, input, other) -> Value:
        for x, gate in ((input, other), (other, input)):
            if isinstance(x, Value) and isinstance(gate, Value):
                shape = self.shapes[x]
                if self.shapes[gate] == shape or (len(shape) == 3 and self.shapes[gate] == (shape[0], 1, 1)):
                    return self._emit(nodes.Mul, x, gate)
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
        return self._emit(nodes.Clamp, input, low=bounds[0], high=bounds[1])

    def relu(self, input, inplace=False) -> Value:
        return self.clamp(input, 0.0)

    def hardtanh(self, input, min_val=-1.0, max_val=1.0, inplace=False) -> Value:
        return self.clamp(input, min_val, max_val)

    def relu6(self, input, inplace=False) -> Value:
        return self.clamp(input, 0.0, 6.0)

    def sigmoid(self, input) -> Value:
        return self._emit(nodes.Gate, input, op="sigmoid")

    def silu(self, input, inplace=False) -> Value:
        return self._emit(nodes.Gate, input, op="silu")

    def hardsigmoid(self, input, inplace=False) -> Value:
        return self._emit(nodes.Gate, input, op="hardsigmoid")

    def hardswish(self, input, inplace=False) -> Value:
        return self._emit(nodes.Gate, input, op="hardswish")

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
            nodes.MaxPool,
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
            nodes.AvgPool,
            input,
            kernel_size=kernel_size,
            stride=_pair(stride) if stride else kernel_size,
            padding=_pair(padding),
            count_include_pad=bool(count_include_pad),
        )

    def adaptive_avg_pool(self, input, output_size) -> Value:
        return self._emit(nodes.AdaptiveAvgPool, input, output_size=self._batched_shape()[1:])

    def mean(self, input, dim=None, keepdim=False) -> Value:
        dims = {d % 4 for d in ((dim,) if isinstance(dim, int) else dim or ())}
        if len(self.shapes[input]) != 3 or dims != {2, 3}:
            raise Unsupported("the engine takes means over height and width together")
        pooled = self._emit(nodes.AdaptiveAvgPool, input, output_size=(1, 1), gives=(self.shapes[input][0], 1, 1))
        if keepdim:
            return pooled
        return self._emit(nodes.Reshape, pooled, shape=self._batched_shape())

    def reshape(self, input, *_, **__) -> Value:
        return self._emit(nodes.Reshape, input, shape=self._batched_shape())

    def transpose(self, input, dim0, dim1) -> Value:
        dims = len(self.shapes[input]) + 1
        axes = tuple(d % dims - 1 for d in (dim0, dim1))
        if min(axes) < 0:
            raise Unsupported("it moves the batch")
        return self._emit(nodes.Transpose, input, axes=axes)

    def concat(self, tensors, dim=0) -> Value:
        axis = self._axis(tensors[0], dim)
        return self._emit(nodes.Concat, *tensors, axis=axis)

    def chunk(self, input, chunks, dim=0) -> list[Value]:
        return self._pieces(input, dim)

    def split(self, tensor, split_size_or_sections=None, dim=0, *, split_size=None) -> list[Value]:
        return self._pieces(tensor, dim)

    def _pieces(self, input: Value, dim: int) -> list[Value]:
        """Slice along one dimension into the sizes that the run shows."""
        axis, values, start = self._axis(input, dim), [], 0
        for piece in self.current.result:
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
            nodes.Slice, input, axis=axis, start=part.start, stop=part.stop, step=part.step, gives=tuple(shape)
        )

    def getitem(self, input, index) -> Any:
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
        return self._emit(nodes.Pad, input, before=tuple(b for b, _ in pairs), after=tuple(a for _, a in pairs))

    def dropout(self, input, p=0.5, training=True, inplace=False, *, train=None) -> Value:
        if p != 0 and (training if train is None else train):
            raise Unsupported("it drops values in evaluation too; `training=self.training` would not")
        return input

    def nothing(self, input, *_, **__) -> Value:
        """What changes no number."""
        if self._batched_shape() != self.shapes[input]:
            raise Unsupported("it gives a tensor of another shape")
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


# By the name that a function has in torch, torch.nn.functional or torch.Tensor; with `_`, it works in place.
_BY_NAME: dict[str, Callable] = {
    "add": Operations.add,
    **dict.fromkeys(("mul", "multiply"), Operations.mul),
    "relu": Operations.relu,
    **dict.fromkeys(("clamp", "clip"), Operations.clamp),
    "relu6": Operations.relu6,
    "hardtanh": Operations.hardtanh,
    "sigmoid": Operations.sigmoid,
    "silu": Operations.silu,
    "hardsigmoid": Operations.hardsigmoid,
    "hardswish": Operations.hardswish,
    "max_pool2d": Operations.max_pool,
    "max_pool2d_with_indices": Operations.max_pool,
    "avg_pool2d": Operations.avg_pool,
    "adaptive_avg_pool2d": Operations.adaptive_avg_pool,
    "mean": Operations.mean,
    **dict.fromkeys(("flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten"), Operations.reshape),
    **dict.fromkeys(("reshape_as", "view_as"), Operations.reshape),
    "transpose": Operations.transpose,
    **dict.fromkeys(("cat", "concat", "concatenate"), Operations.concat),
    "chunk": Operations.chunk,
    "split": Operations.split,
    "__getitem__": Operations.getitem,
    "pad": Operations.pad,
    **dict.fromkeys(("dropout", "dropout2d", "alpha_dropout"), Operations.dropout),
    **dict.fromkeys(("contiguous", "float", "clone", "detach", "to", "type", "type_as"), Operations.nothing),
}

HANDLERS: dict[Any, Callable] = {
    quantized_layer: Operations.layer,
    **{
        function: handler
        for name, handler in _BY_NAME.items()
        for library in (torch, F, Tensor)
        for form in (name, f"{name}_")
        if callable(function := getattr(library, form, None))
    },
}
