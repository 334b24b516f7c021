"""A traced network to the nodes of an artifact.

Each operation of the graph is handled by a method of `Lowering` whose parameters are those of torch's function, so that
modules, functions and methods that mean the same arrive at one place.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair
from torchvision.ops import stochastic_depth

from asqcli.artifact import document as doc
from asqcli.errors import UnsupportedError
from asqcli.export.integers import (
    TensorStore,
    require_integers,
    store_activations,
    store_batch_norm,
    store_weights,
)
from asqcli.export.trace import BATCH, Trace, place, tensors_of, tensors_only
from asqcli.nn.layers import QuantConv2d, QuantLinear, TwoStepBatchNorm2d

SUPPORTED = (
    "the engine has quantized convolutions and linear layers, batch norm, ReLU and other clamps, sigmoid, SiLU, "
    "hard sigmoid and swish, sums, products with gates, max and average pools, concatenation, slices, padding, reshape"
)


class _Value(int):
    """The number of a value of the artifact; anything else that an operation gives is a constant."""


STALE = object()  # what a view of a tensor gave that was changed in place since


class _Unsupported(Exception):
    """An operation that the engine has no node for; the reason, without its place."""


def lower(trace: Trace) -> tuple[tuple[doc.AnyNode, ...], TensorStore]:
    """Return the nodes and tensors of a traced network.

    Raises:
        UnsupportedError: names the layer or operation and its place in the source.
    """
    return Lowering(trace).run()


class Lowering:
    """Walks the graph once; `nodes` grows as it does."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.modules = dict(trace.model.named_modules())
        self.store = TensorStore()
        self.nodes: list[doc.AnyNode] = []
        self.shapes: list[tuple[int, ...]] = []  # of each value, without the batch
        self.results: dict[fx.Node, Any] = {}
        self.current: fx.Node | None = None

    def run(self) -> tuple[tuple[doc.AnyNode, ...], TensorStore]:
        output = None
        for node in self.trace.graph.nodes:
            self.current = node
            try:
                self.results[node] = output = self._lower_node(node)
                self._follow_changes(node)
            except _Unsupported as reason:
                raise UnsupportedError(
                    f"{self._title(node)} cannot be exported: {reason}{place(node)}", SUPPORTED
                ) from None
        return _prune(self.nodes, output), self.store

    def _follow_changes(self, node: fx.Node) -> None:
        """What held a tensor that `node` changed in place holds its value from now on; views of it are not followed."""
        for tensor in self.trace.changed.get(node, ()):
            for earlier in self.results:
                held = self.trace.results[earlier]
                if isinstance(held, Tensor) and _same_place(held, tensor):
                    self.results[earlier] = self.results[node]
                elif any(_overlap(part, tensor) for part in tensors_of(held)):
                    self.results[earlier] = STALE

    def _lower_node(self, node: fx.Node) -> Any:
        if any(self.results.get(source) is STALE for source in node.all_input_nodes):
            raise _Unsupported("it reads a part of a tensor that was changed in place since")
        if node.op == "placeholder":
            self.shapes.append(tuple(self.trace.results[node].shape[1:]))
            return _Value(0)
        if node.op == "output":
            return self._output(node)
        if node.op != "call_module" and not tensors_only(self.trace.results[node]):
            return self.trace.results[node]  # a size, or what was computed from sizes
        if node.op == "get_attr":
            raise _Unsupported("the network computes with a tensor of its own")
        args, kwargs = (fx.node.map_arg(a, lambda n: self.results[n]) for a in (node.args, node.kwargs))
        if node.op == "call_module":
            return self._call_module(node.target, self.modules[node.target], *args, **kwargs)
        handler = HANDLERS.get(node.target)
        if handler is None:
            raise _Unsupported("there is no such operation in the engine")
        try:
            inspect.signature(handler).bind(self, *args, **kwargs)
        except TypeError as error:
            raise _Unsupported(f"it is called with arguments that the engine does not know ({error})") from error
        return handler(self, *args, **kwargs)

    def _output(self, node: fx.Node) -> _Value:
        value = self.results.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
        if not isinstance(value, _Value) or len(self.shapes[value]) != 1:
            raise _Unsupported("a classifier returns one tensor of logits, (N, classes)")
        return value

    def _call_module(self, name: str, module: nn.Module, *args, **kwargs) -> Any:
        for kind, handler in MODULES:
            if isinstance(module, kind):
                values = [*args, *kwargs.values()]
                if len(values) != 1 or not set(kwargs) <= {"input"} or not isinstance(values[0], _Value):
                    raise _Unsupported("it does not take one tensor")
                return handler(self, values[0], module, name)
        raise _Unsupported("there is no such layer in the engine")

    def _emit(
        self,
        kind: type[doc.Node],
        *inputs: _Value,
        op: str | None = None,
        name: str | None = None,
        gives: tuple[int, ...] | None = None,
        **settings,
    ) -> _Value:
        """Add a node; return its value.

        Args:
            op: where `kind` stands for several.
            name: of the layer; otherwise that of the operation in the graph.
            gives: the shape of its value; otherwise that of the operation's result in the run.
        """
        if not all(isinstance(value, _Value) for value in inputs):
            raise _Unsupported("it computes with something that is not the network's input or made from it")
        op = op or kind.model_fields["op"].annotation.__args__[0]
        name = self.current.name if name is None else name
        self.nodes.append(kind(op=op, name=name, inputs=tuple(map(int, inputs)), **settings))
        self.shapes.append(self._batched_shape() if gives is None else gives)
        return _Value(len(self.nodes))

    def _batched_shape(self) -> tuple[int, ...]:
        """Return the shape of the current result without its batch."""
        shape = tuple(self.trace.results[self.current].shape)
        if shape[:1] != (BATCH,) or len(shape) < 2:
            raise _Unsupported(f"it gives a tensor of shape {shape} for a batch of {BATCH}")
        return shape[1:]

    def _title(self, node: fx.Node) -> str:
        """Return how to call an operation in an error."""
        if node.op == "call_module":
            return f"layer `{node.target}` ({type(self.modules[node.target]).__name__})"
        return "the output" if node.op == "output" else f"`{getattr(node.target, '__name__', node.target)}`"

    # Layers

    def quant_layer(self, x: _Value, layer: QuantConv2d | QuantLinear, name: str) -> _Value:
        require_integers(name, layer)
        activations = store_activations(name, layer.activation_quantizer, self.store)
        if isinstance(layer, QuantLinear):
            if len(self.shapes[x]) != 1:
                raise _Unsupported(f"its input has the shape {self.shapes[x]} for one image, not (features,)")
            weights = store_weights(name, layer, self.store)
            return self._emit(doc.Linear, x, name=name, activations=activations, weights=weights)
        if layer.padding_mode != "zeros":
            raise _Unsupported(f"it pads with `{layer.padding_mode}`, and the engine with zeros")
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

    def batch_norm(self, x: _Value, layer: TwoStepBatchNorm2d, name: str) -> _Value:
        if layer.running_mean is None:
            raise _Unsupported("it has no running statistics")
        g, b = store_batch_norm(name, layer, self.store)
        return self._emit(doc.BatchNorm, x, name=name, g=g, b=b)

    # Functions: parameters as torch's

    def add(self, input, other, *, alpha=1, out=None) -> _Value:
        self._same_shapes(input, other)
        if alpha != 1:
            raise _Unsupported("it has a factor")
        return self._emit(doc.Add, input, other)

    def mul(self, input, other) -> _Value:
        for x, gate in ((input, other), (other, input)):
            if isinstance(x, _Value) and isinstance(gate, _Value):
                shape = self.shapes[x]
                if self.shapes[gate] == shape or (len(shape) == 3 and self.shapes[gate] == (shape[0], 1, 1)):
                    return self._emit(doc.Mul, x, gate)
        raise _Unsupported("the factors are not two values of one shape, or a value and one number per channel")

    def _same_shapes(self, input, other) -> None:
        if not isinstance(input, _Value) or not isinstance(other, _Value):
            raise _Unsupported("one of its operands is a constant")
        if self.shapes[input] != self.shapes[other]:
            raise _Unsupported(f"its operands have the shapes {self.shapes[input]} and {self.shapes[other]}")

    def clamp(self, input, min=None, max=None) -> _Value:
        if isinstance(min, _Value) or isinstance(max, _Value):
            raise _Unsupported("its bounds are no constants")
        bounds = [None if bound is None or math.isinf(bound) else float(bound) for bound in (min, max)]
        return self._emit(doc.Clamp, input, low=bounds[0], high=bounds[1])

    def relu(self, input, inplace=False) -> _Value:
        return self.clamp(input, 0.0)

    def hardtanh(self, input, min_val=-1.0, max_val=1.0, inplace=False) -> _Value:
        return self.clamp(input, min_val, max_val)

    def relu6(self, input, inplace=False) -> _Value:
        return self.clamp(input, 0.0, 6.0)

    def sigmoid(self, input) -> _Value:
        return self._emit(doc.Gate, input, op="sigmoid")

    def silu(self, input, inplace=False) -> _Value:
        return self._emit(doc.Gate, input, op="silu")

    def hardsigmoid(self, input, inplace=False) -> _Value:
        return self._emit(doc.Gate, input, op="hardsigmoid")

    def hardswish(self, input, inplace=False) -> _Value:
        return self._emit(doc.Gate, input, op="hardswish")

    def max_pool(
        self, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
    ) -> _Value:
        if return_indices:
            raise _Unsupported("it returns indices")
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
    ) -> _Value:
        if ceil_mode or divisor_override is not None:
            raise _Unsupported("the engine's average pools have neither `ceil_mode` nor `divisor_override`")
        kernel_size = _pair(kernel_size)
        return self._emit(
            doc.AvgPool,
            input,
            kernel_size=kernel_size,
            stride=_pair(stride) if stride else kernel_size,
            padding=_pair(padding),
            count_include_pad=bool(count_include_pad),
        )

    def adaptive_avg_pool(self, input, output_size) -> _Value:
        return self._emit(doc.AdaptiveAvgPool, input, output_size=self._batched_shape()[1:])

    def mean(self, input, dim=None, keepdim=False) -> _Value:
        dims = {d % 4 for d in ((dim,) if isinstance(dim, int) else dim or ())}
        if len(self.shapes[input]) != 3 or dims != {2, 3}:
            raise _Unsupported("the engine takes means over height and width together")
        pooled = self._emit(doc.AdaptiveAvgPool, input, output_size=(1, 1), gives=(self.shapes[input][0], 1, 1))
        if keepdim:
            return pooled
        return self._emit(doc.Reshape, pooled, shape=self._batched_shape())

    def reshape(self, input, *_, **__) -> _Value:
        return self._emit(doc.Reshape, input, shape=self._batched_shape())

    def transpose(self, input, dim0, dim1) -> _Value:
        dims = len(self.shapes[input]) + 1
        axes = tuple(d % dims - 1 for d in (dim0, dim1))
        if min(axes) < 0:
            raise _Unsupported("it moves the batch")
        return self._emit(doc.Transpose, input, axes=axes)

    def concat(self, tensors, dim=0) -> _Value:
        axis = self._axis(tensors[0], dim)
        return self._emit(doc.Concat, *tensors, axis=axis)

    def chunk(self, input, chunks, dim=0) -> list[_Value]:
        return self._pieces(input, dim)

    def split(self, tensor, split_size_or_sections, dim=0) -> list[_Value]:
        return self._pieces(tensor, dim)

    def _pieces(self, input: _Value, dim: int) -> list[_Value]:
        """Slice along one dimension into the sizes that the run shows."""
        axis, values, start = self._axis(input, dim), [], 0
        for piece in self.trace.results[self.current]:
            shape = tuple(piece.shape[1:])
            values.append(self._emit_slice(input, axis, slice(start, start + shape[axis], 1)))
            start += shape[axis]
        return values

    def _axis(self, value: _Value, dim: int) -> int:
        axis = dim % (len(self.shapes[value]) + 1) - 1
        if axis < 0:
            raise _Unsupported("it works along the batch")
        return axis

    def _emit_slice(self, input: _Value, axis: int, part: slice) -> _Value:
        shape = list(self.shapes[input])
        shape[axis] = len(range(part.start, part.stop, part.step))
        return self._emit(
            doc.Slice, input, axis=axis, start=part.start, stop=part.stop, step=part.step, gives=tuple(shape)
        )

    def getitem(self, input, index) -> Any:
        if not isinstance(input, _Value):
            return input[index]  # of a list of pieces
        index = index if isinstance(index, tuple) else (index,)
        dims = len(self.shapes[input]) + 1
        if Ellipsis in index:
            at = index.index(Ellipsis)
            index = (*index[:at], *[slice(None)] * (dims - len(index) + 1), *index[at + 1 :])
        if not all(isinstance(i, slice) for i in index) or index[0] != slice(None):
            raise _Unsupported("the engine slices along channels, height and width, and takes no single elements")
        value = input
        for axis, part in enumerate(index[1:]):
            size = self.shapes[value][axis]
            part = slice(*part.indices(size))
            if part != slice(0, size, 1):
                value = self._emit_slice(value, axis, part)
        return value

    def pad(self, input, pad, mode="constant", value=None) -> _Value:
        if mode != "constant" or value not in (None, 0):
            raise _Unsupported("the engine pads with zeros")
        dims = len(self.shapes[input])
        if len(pad) > 2 * dims or min(pad) < 0:
            raise _Unsupported(f"it pads by {tuple(pad)}")
        pairs = [tuple(pad[i : i + 2]) for i in range(0, len(pad), 2)]  # torch names the last dimension first
        pairs = [*pairs, *[(0, 0)] * (dims - len(pairs))][::-1]
        return self._emit(doc.Pad, input, before=tuple(b for b, _ in pairs), after=tuple(a for _, a in pairs))

    def nothing(self, input, *_, **__) -> Any:
        """Dropout and the like, which evaluation passes over."""
        return input


def _same_storage(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _same_place(a: Tensor, b: Tensor) -> bool:
    """Are two tensors the same numbers in the same order?"""
    places = ((t.storage_offset(), t.shape, t.stride()) for t in (a, b))
    return _same_storage(a, b) and next(places) == next(places)


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Have two tensors a number in common?"""
    if not _same_storage(a, b):
        return False
    marks = torch.zeros(a.untyped_storage().nbytes() // a.element_size(), dtype=torch.bool)
    marks.as_strided(a.shape, a.stride(), a.storage_offset()).fill_(True)
    return bool(marks.as_strided(b.shape, b.stride(), b.storage_offset()).any())


def _borders(layer: QuantConv2d) -> tuple[int, int, int, int]:
    """Return a convolution's padding, (top, left, bottom, right)."""
    if layer.padding == "valid":
        return 0, 0, 0, 0
    if layer.padding == "same":  # as torch: the smaller half first
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        first = [total // 2 for total in totals]
        return (*first, *(total - f for total, f in zip(totals, first, strict=True)))
    return (*layer.padding, *layer.padding)


def _prune(nodes: list[doc.AnyNode], output: _Value) -> tuple[doc.AnyNode, ...]:
    """Return the nodes that the output depends on, numbered anew."""
    needed, waiting = set(), [int(output)]
    while waiting:
        value = waiting.pop()
        if value and value not in needed:
            needed.add(value)
            waiting += nodes[value - 1].inputs
    number = {0: 0} | {value: place for place, value in enumerate(sorted(needed), start=1)}
    kept = [nodes[value - 1] for value in sorted(needed)]
    return tuple(n.model_copy(update={"inputs": tuple(number[i] for i in n.inputs)}) for n in kept)


MODULES: tuple[tuple[type | tuple[type, ...], Callable], ...] = (
    ((QuantConv2d, QuantLinear), Lowering.quant_layer),
    (TwoStepBatchNorm2d, Lowering.batch_norm),
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
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), Lowering.add),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"), Lowering.mul),
    **dict.fromkeys((F.relu, torch.relu, F.relu_, torch.relu_, "relu", "relu_"), Lowering.relu),
    **dict.fromkeys((torch.clamp, torch.clip, "clamp", "clamp_", "clip"), Lowering.clamp),
    F.relu6: Lowering.relu6,
    F.hardtanh: Lowering.hardtanh,
    **dict.fromkeys((torch.sigmoid, F.sigmoid, "sigmoid"), Lowering.sigmoid),
    F.silu: Lowering.silu,
    F.hardsigmoid: Lowering.hardsigmoid,
    F.hardswish: Lowering.hardswish,
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), Lowering.max_pool),
    F.avg_pool2d: Lowering.avg_pool,
    F.adaptive_avg_pool2d: Lowering.adaptive_avg_pool,
    **dict.fromkeys((torch.mean, "mean"), Lowering.mean),
    **dict.fromkeys(
        (torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, "flatten", "reshape", "view", "squeeze"),
        Lowering.reshape,
    ),
    **dict.fromkeys(("unsqueeze", "unflatten", torch.unflatten), Lowering.reshape),
    **dict.fromkeys((torch.transpose, "transpose"), Lowering.transpose),
    **dict.fromkeys((torch.cat, torch.concat), Lowering.concat),
    **dict.fromkeys((torch.chunk, "chunk"), Lowering.chunk),
    **dict.fromkeys((torch.split, "split"), Lowering.split),
    operator.getitem: Lowering.getitem,
    F.pad: Lowering.pad,
    **dict.fromkeys((F.dropout, F.dropout2d, stochastic_depth, "contiguous", "float", "clone"), Lowering.nothing),
}
