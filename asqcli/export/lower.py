"""A recorded run to the nodes of an artifact: the walk over it, and what is changed in place on the way."""

from __future__ import annotations

import builtins
import inspect
import keyword
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asqcli.artifact.nodes import AnyNode
from asqcli.errors import UnsupportedError
from asqcli.export.graph import Call, GraphBuilder, Stack, Unread, Unsupported, Value
from asqcli.export.integers import TensorStore
from asqcli.export.operations import HANDLERS, SUPPORTED, TAKES_STACKS, lacking
from asqcli.nn.record import INPUT, Operation, Record, is_getter, map_tensors, storage_of, tensors_in

STALE = Unread("it reads a part of a tensor that was changed in place since")  # for a view
# Methods that tell of a tensor what does not depend on its numbers, or tell it to people, as getters of properties do.
_TELL_NO_VALUES = {
    "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "element_size", "get_device", "len",
    "type", "result_type", "can_cast", "has_names", "dense_dim", "sparse_dim", "repr", "format", "str", "hash",
    "register_hook", "retain_grad", "is_contiguous", "is_pinned", "is_shared", "is_inference", "is_floating_point",
    "is_complex", "is_signed", "is_same_size", "is_conj", "is_neg", "is_coalesced", "is_distributed",
}  # fmt: skip


@dataclass(frozen=True)
class Lowered:
    """The nodes of an artifact.

    Attributes:
        places: in the source, by the names of the nodes that come from there.
        left_out: in words, what of the network stands in no node and makes no difference to labels and scores, or None.
    """

    nodes: tuple[AnyNode, ...]
    places: dict[str, str]
    left_out: str | None


def lower(record: Record, store: TensorStore) -> Lowered:
    """Return the nodes of a recorded run; their tensors go into `store`.

    Raises:
        UnsupportedError: names the layer or operation and its place in the source.
    """
    return Lowering(record, store).run()


class Lowering:
    """Walks the record once; the graph grows as it does."""

    def __init__(self, record: Record, store: TensorStore) -> None:
        self.record, self.graph = record, GraphBuilder(record, store)
        self.names = _Names()
        self.values: dict[int, tuple[Tensor, Any]] = {}  # by the identity of the tensor

    def run(self) -> Lowered:
        places: dict[str, str] = {}
        self.names.new(next(iter(inspect.signature(self.record.model.forward).parameters), "input"))
        self._hold(self.record.input, Value(0))
        # Whoever looks at values gets them from operations, which the engine may not have either.
        self._refuse_looks_at_values()
        for operation in self.record.operations:
            if operation.gives_values:
                made = len(self.graph.nodes)
                try:
                    self._lower(operation)
                except Unsupported as reason:
                    raise UnsupportedError(
                        f"{self._title(operation)} cannot be exported: {reason}{operation.place}",
                        reason.hint or SUPPORTED,
                    ) from None
                places |= {node.name: operation.place for node in self.graph.nodes[made:]}
        output, left_out = self._output()
        return Lowered(_prune(self.graph.nodes, output), places, left_out)

    def _refuse_looks_at_values(self) -> None:
        for operation in self.record.operations:
            if INPUT in operation.sources and not operation.gives_values and _looks_at_values(operation):
                raise UnsupportedError(
                    f"`{operation.name}` cannot be exported: it looks at the values of a tensor that is made from the "
                    f"network's input{operation.place}",
                    "a forward must not branch, loop or compute on the values of tensors",
                )

    def _lower(self, operation: Operation) -> None:
        call = Call(self.graph, operation, self.names.new(self._candidate(operation)))
        if operation.changed_unseen:
            raise Unsupported("it reads a tensor that was changed in place by something that is no function of torch")
        if any(tensor.is_inference() for tensor in tensors_in(operation.result)):
            raise Unsupported("it runs in inference mode, in which torch does not tell what is changed in place")
        handler = HANDLERS.get(operation.function)
        if handler is None:
            raise lacking(operation.function, "layer" if operation.module in self.graph.layers else "operation")

        def given(tensor: Tensor) -> Any:
            value = self._value(tensor)
            return call.joined(value) if isinstance(value, Stack) and handler not in TAKES_STACKS else value

        args, kwargs = map_tensors((operation.args, operation.kwargs), given)
        try:
            inspect.signature(handler).bind(call, *args, **kwargs)
        except TypeError as error:
            raise Unsupported(f"it is called with arguments that the engine does not know ({error})") from error
        value = handler(call, *args, **kwargs)
        self._follow_changes(operation, value)
        self._hold(operation.result, value)

    def _value(self, tensor: Tensor) -> Any:
        """Return what stands for a tensor: a value, or itself where it is a constant."""
        if id(tensor) not in self.values:
            return tensor
        _, value = self.values[id(tensor)]
        if isinstance(value, Unread):
            raise Unsupported(value.reason)
        return value

    def _hold(self, result: Any, value: Any) -> None:
        values = value if isinstance(value, list) else [value]
        for tensor, own in zip(tensors_in(result), values, strict=True):
            self.values[id(tensor)] = tensor, own

    def _follow_changes(self, operation: Operation, value: Any) -> None:
        """What held a tensor that an operation changed in place holds its value from now on; views are not followed."""
        for tensor in operation.changed:
            returned = isinstance(operation.result, Tensor) and _same_place(operation.result, tensor)
            for key, (held, _) in self.values.items():
                if returned and _same_place(held, tensor):
                    self.values[key] = held, value
                elif _overlap(held, tensor):
                    self.values[key] = held, STALE

    def _output(self) -> tuple[Value, str | None]:
        """Return the value of the logits, and what was left out behind it."""
        output, left_out = self.record.output, None
        _, value = self.values.get(id(output), (None, None))
        if isinstance(value, Unread) and value.output is not None:
            last = next(operation for operation in self.record.operations if operation.result is output)
            value, left_out = value.output, f"{self._title(last)}{last.place}"
        if not isinstance(value, Value) or len(self.graph.shapes[value]) != 1:
            raise UnsupportedError(
                "the output cannot be exported: a classifier returns one tensor of logits, (N, classes), that is made "
                "from its input by functions of torch",
                SUPPORTED,
            )
        return value, left_out

    def _candidate(self, operation: Operation) -> str:
        """Return what an operation would be called if no other were: as its layer, or as its function."""
        if operation.module in self.graph.layers:
            return self.graph.layers[operation.module]
        in_place = operation.operator and operation.name.endswith("_")  # `x += y`
        return f"i{operation.name[:-1]}" if in_place else operation.name

    def _title(self, operation: Operation) -> str:
        """Return how to call an operation in an error."""
        if operation.module in self.graph.layers:
            return f"layer `{self.graph.layers[operation.module]}` ({type(operation.module).__name__})"
        return f"`{self._candidate(operation)}`"


def _looks_at_values(operation: Operation) -> bool:
    return not is_getter(operation.function) and operation.name not in _TELL_NO_VALUES


class _Names:
    """Names for the nodes of one file, each once: Python identifiers that are no words of the language.

    >>> names = _Names()
    >>> [names.new(n) for n in ("add", "layer1.relu", "add", "layer1.relu", "float", "add_1")]
    ['add', 'layer1_relu', 'add_1', 'layer1_relu_1', 'float_1', 'add_2']
    """

    TAKEN = (*keyword.kwlist, *dir(builtins), "inf", "nan", "NoneType", "torch", "device", "fx_pytree", "pytree")

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.counts: dict[str, int] = {}

    def new(self, candidate: str) -> str:
        name = re.sub("[^0-9a-zA-Z_]+", "_", re.sub("(?<=[a-z])([A-Z])", r"_\1", candidate).lower())
        name = f"_{name}" if name[:1].isdigit() else name
        parts = re.fullmatch(r"(.*?)(?:_(\d+))?", name)
        assert parts is not None  # whatever the name
        base, number = parts.groups()
        if number is None or name in self.used:
            count = self.counts.get(name, 0)
            if name in self.TAKEN:
                count += 1
                name = f"{base}_{count}"
        else:
            count = int(number)
        while name in self.used:
            count += 1
            name = f"{base}_{count}"
        self.used.add(name)
        self.counts[base] = count
        return name


def _same_place(a: Tensor, b: Tensor) -> bool:
    """Are two tensors the same numbers in the same order?"""
    places = ((storage_of(t), t.storage_offset(), t.shape, t.stride()) for t in (a, b))
    return next(places) == next(places)


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Have two tensors a number in common?"""
    if storage_of(a) != storage_of(b):
        return False
    marks = torch.zeros(a.untyped_storage().nbytes() // a.element_size(), dtype=torch.bool)
    marks.as_strided(a.shape, a.stride(), a.storage_offset()).fill_(True)
    return bool(marks.as_strided(b.shape, b.stride(), b.storage_offset()).any())


def _prune(nodes: list[AnyNode], output: Value) -> tuple[AnyNode, ...]:
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
