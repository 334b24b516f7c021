"""The forward of a network as a graph of operations, with what each of them gives in one run.

The run has a batch of two, so that a result tells whether its first dimension is the batch. Sizes that the network
computes with (`x.shape`) are plain numbers in it.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from asqcli.errors import UnsupportedError, first_line
from asqcli.nn.layers import QuantConv2d, QuantLinear, TwoStepBatchNorm2d

BATCH = 2
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in \S+\n\s*(?P<code>[^\n]*)')


@dataclass(frozen=True)
class Trace:
    """A traced network.

    Attributes:
        model: what was traced.
        graph: its operations, in order.
        results: what each of them gave for a batch of two.
        changed: the tensors that an operation changed in place, of those that have any.
    """

    model: nn.Module
    graph: fx.Graph
    results: dict[fx.Node, Any]
    changed: dict[fx.Node, list[Tensor]]


class _Proxy(fx.Proxy):
    """Keeps `x += y`, which changes x for all who hold it, apart from `x = x + y`; torch.fx takes one for the other."""

    def __iadd__(self, other):
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __imul__(self, other):
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})


class _Tracer(fx.Tracer):
    record_stack_traces = True

    def proxy(self, node: fx.Node) -> _Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, QuantConv2d | QuantLinear | TwoStepBatchNorm2d) or super().is_leaf_module(
            module, name
        )


class _Recorder(fx.Interpreter):
    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, garbage_collect_values=False, graph=graph)
        self.results: dict[fx.Node, Any] = {}
        self.changed: dict[fx.Node, list[Tensor]] = {}

    def run_node(self, node: fx.Node) -> Any:
        inputs = [tensor for source in node.all_input_nodes for tensor in tensors_of(self.results[source])]
        versions = [tensor._version for tensor in inputs]
        self.results[node] = super().run_node(node)
        changed = [tensor for tensor, version in zip(inputs, versions, strict=True) if tensor._version != version]
        if changed:
            self.changed[node] = changed
        return self.results[node]


def trace(model: nn.Module, input_shape: tuple[int, int, int]) -> Trace:
    """Trace `model`, which is in evaluation mode.

    Args:
        input_shape: (3, height, width).
    Raises:
        UnsupportedError: its forward decides by the values of tensors, or fails.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # the network's own code, and the tracer's complaints about it
        raise UnsupportedError(
            f"the network's forward cannot be written as a graph: {first_line(error)}",
            "a forward must not branch or loop on the values of tensors; `--debug` shows where it does",
        ) from error
    recorder = _Recorder(model, graph)
    device = next((p.device for p in model.parameters()), None)
    with torch.no_grad():
        recorder.run(torch.zeros(BATCH, *input_shape, device=device))
    return Trace(model, graph, recorder.results, recorder.changed)


def place(node: fx.Node) -> str:
    """Return where an operation stands in its author's source, such as ` at my_net.py:12: x = x * 2`, or nothing."""
    frames = [f for f in FRAME.finditer(node.stack_trace or "") if "/torch/" not in f["file"].replace("\\", "/")]
    if not frames:
        return ""
    last = frames[-1]
    file = re.split(r"[/\\]", last["file"])[-1]
    return f", at {file}:{last['line']}: `{last['code']}`"


def tensors_of(result: Any) -> list[Tensor]:
    """Return the tensors that a result is made of: itself, or its parts."""
    parts = result if isinstance(result, tuple | list) else [result]
    return [part for part in parts if isinstance(part, Tensor)]


def tensors_only(result: Any) -> bool:
    """Is a result a tensor, or several?"""
    tensors = tensors_of(result)
    return len(tensors) > 0 and len(tensors) == (len(result) if isinstance(result, tuple | list) else 1)
