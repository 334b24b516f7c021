"""A traced network to the nodes of an artifact: the walk over its graph, and what is changed in place on the way."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, fx, nn

from asqcli.artifact import document as doc
from asqcli.errors import UnsupportedError
from asqcli.export.integers import TensorStore
from asqcli.export.operations import HANDLERS, MODULES, SUPPORTED, Operations, Unsupported, Value
from asqcli.export.trace import Trace, place, tensors_of, tensors_only

STALE = object()  # what a view of a tensor gave that was changed in place since


def lower(trace: Trace) -> tuple[tuple[doc.AnyNode, ...], TensorStore]:
    """Return the nodes and tensors of a traced network.

    Raises:
        UnsupportedError: names the layer or operation and its place in the source.
    """
    return Lowering(trace).run()


class Lowering(Operations):
    """Walks the graph once; `nodes` grows as it does."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.modules = dict(trace.model.named_modules())
        self.results: dict[fx.Node, Any] = {}

    def run(self) -> tuple[tuple[doc.AnyNode, ...], TensorStore]:
        output = None
        for node in self.trace.graph.nodes:
            self.current = node
            try:
                self.results[node] = output = self._lower_node(node)
                self._follow_changes(node)
            except Unsupported as reason:
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
            raise Unsupported("it reads a part of a tensor that was changed in place since")
        if node.op == "placeholder":
            self.shapes.append(tuple(self.trace.results[node].shape[1:]))
            return Value(0)
        if node.op == "output":
            return self._output(node)
        if node.op != "call_module" and not tensors_only(self.trace.results[node]):
            return self.trace.results[node]  # a size, or what was computed from sizes
        if node.op == "get_attr":
            raise Unsupported("the network computes with a tensor of its own")
        args, kwargs = (fx.node.map_arg(a, lambda n: self.results[n]) for a in (node.args, node.kwargs))
        if node.op == "call_module":
            return self._call_module(node.target, self.modules[node.target], *args, **kwargs)
        handler = HANDLERS.get(node.target)
        if handler is None:
            raise Unsupported("there is no such operation in the engine")
        try:
            inspect.signature(handler).bind(self, *args, **kwargs)
        except TypeError as error:
            raise Unsupported(f"it is called with arguments that the engine does not know ({error})") from error
        return handler(self, *args, **kwargs)

    def _output(self, node: fx.Node) -> Value:
        value = self.results.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
        if not isinstance(value, Value) or len(self.shapes[value]) != 1:
            raise Unsupported("a classifier returns one tensor of logits, (N, classes)")
        return value

    def _call_module(self, name: str, module: nn.Module, *args, **kwargs) -> Any:
        for kind, handler in MODULES:
            if isinstance(module, kind):
                values = [*args, *kwargs.values()]
                if len(values) != 1 or not set(kwargs) <= {"input"} or not isinstance(values[0], Value):
                    raise Unsupported("it does not take one tensor")
                return handler(self, values[0], module, name)
        raise Unsupported("there is no such layer in the engine")

    def _title(self, node: fx.Node) -> str:
        """Return how to call an operation in an error."""
        if node.op == "call_module":
            return f"layer `{node.target}` ({type(self.modules[node.target]).__name__})"
        return "the output" if node.op == "output" else f"`{getattr(node.target, '__name__', node.target)}`"


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


def _prune(nodes: list[doc.AnyNode], output: Value) -> tuple[doc.AnyNode, ...]:
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
