"""One run of a network, written down: every torch function that it calls, with what went in and came out.

A run has one image size, so sizes, branches on them, defaults and keyword arguments are what they are in it; only a
network that decides by the *values* of tensors is more than its record. What is written down are the overridable
functions of torch, tensor methods among them. Quantized layers and batch norms are such functions too, so that a record
holds a call of one, and not what is inside.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from asqcli.arithmetic.torch_mode import FixedArithmetic, torchs_own_arithmetic
from asqcli.errors import AsqError, UnsupportedError, first_line, ran_out_of_memory
from asqcli.nn.callers import LAYER_FUNCTIONS, caller_of, place_of_raise, run
from asqcli.nn.layers import quantized_layer
from asqcli.nn.modes import evaluating

INPUT = ""  # among the sources of a tensor; the others are names of parameters and buffers

# Functions that take no more than the form of a tensor: of all but the first, and of the first.
_AS_THE_FIRST = ("to", "type_as", "view_as", "expand_as", "reshape_as")
_AS_NOTHING = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
               "new_empty", "new_full", "new_tensor")  # fmt: skip


@dataclass(eq=False)
class Operation:
    """One call of one function.

    Attributes:
        function: as torch names it to a mode: a function, a method or a property's getter of `torch.Tensor`.
        args, kwargs: of the call; lists and dicts in them are copies.
        result: a tensor, several, or anything else.
        module: the layer that was called: a quantized one; the module of torch whose forward called the function; or
            one of an author's own class, where that called what layers call.
        place: where that stands in its author's source, such as ", at my_net.py:12: `x = x * 2`", or nothing.
        operator: was it written as one, such as `+=`?
        sources: names of what the result is made from: parameters, buffers and `INPUT`.
        changed: those arguments that it changed in place.
        changed_unseen: was an argument changed in place since by something that is no function of torch?
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    module: nn.Module | None
    place: str
    operator: bool
    sources: frozenset[str]
    changed: list[Tensor]
    changed_unseen: bool

    @property
    def name(self) -> str:
        """The function's name, without the underscores of operators: `mul`, `relu_`, `getitem`, `shape`."""
        function: Any = self.function
        if is_getter(function):
            return function.__self__.__name__
        name = getattr(function, "__name__", str(function))
        return name[2:-2] if name.startswith("__") and name.endswith("__") else name

    @property
    def gives_values(self) -> bool:
        """Does it make tensors from the network's input, or change them?"""
        return INPUT in self.sources and (bool(self.changed) or any(True for _ in tensors_in(self.result)))

    @property
    def is_layer(self) -> bool:
        """Is it a quantized layer, or a batch norm of ours?"""
        return self.function is quantized_layer


@dataclass(eq=False)
class Record:
    """A run.

    Attributes:
        model: what ran, in evaluation mode.
        input: its input.
        output: what it returned.
        operations: functions that got a tensor, in the order in which they returned.
    """

    model: nn.Module
    input: Tensor
    output: Any
    operations: list[Operation]


@torch.no_grad()
def record(model: nn.Module, example: Tensor) -> Record:
    """Run `model` in evaluation mode and return what it did; all its tensors are kept until the record goes.

    Args:
        example: a batch, (N, 3, H, W), on the model's device.
    Raises:
        Exception: whatever the network raises.
    """
    recorder = _Recorder(model, example)
    with contextlib.ExitStack() as around:
        around.enter_context(evaluating(model))
        around.enter_context(torchs_own_arithmetic())
        around.enter_context(torch.random.fork_rng(devices=[]))  # training's stream goes on where it was
        if "torch._dynamo" in sys.modules:  # compiled functions would hide what they do
            around.enter_context(torch.compiler.set_stance("force_eager"))
        around.enter_context(recorder)
        output = run(model, example)
    return Record(model, example, output, recorder.operations)


def executions(record: Record) -> dict[nn.Module, list[Operation]]:
    """Return the runs of each float layer that can have a twin, in the order of their first; called or not, it ran."""
    found: dict[nn.Module, list[Operation]] = {}
    for operation in record.operations:
        if operation.module is not None and operation.function in LAYER_FUNCTIONS:
            found.setdefault(operation.module, []).append(operation)
    return found


def record_or_refuse(model: nn.Module, example: Tensor) -> Record:
    """Return what `record` does.

    Raises:
        UnsupportedError: the network raises.
    """
    try:
        return record(model, example)
    except (Exception, SystemExit) as error:
        if isinstance(error, AsqError) or ran_out_of_memory(error):
            raise
        raise UnsupportedError(
            f"the network fails on a batch of shape {tuple(example.shape)}: {type(error).__name__}: "
            f"{first_line(error)}{place_of_raise(error)}",
            "run again with --debug to see where",
        ) from error


class _Recorder(TorchFunctionMode):
    """Writes operations down while it is entered.

    What a tensor was made from is a fact of its storage, so that views, and what is written through them, need no care.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.sources: dict[Any, frozenset[str]] = {}
        self.versions: dict[Any, int] = {}
        own = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
        for name, tensor in (item for items in own for item in items):
            if not nn.parameter.is_lazy(tensor):
                self._add_sources(tensor, frozenset([name]))
        self._add_sources(example, frozenset([INPUT]))

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = [t for t in tensors_in((args, kwargs)) if not nn.parameter.is_lazy(t)]
        if not given:
            return function(*args, **kwargs)
        before = [_version(tensor) for tensor in given]
        unseen = any(self.versions.get(storage_of(t), v) != v for t, v in zip(given, before, strict=True))
        given_args, given_kwargs = _copy((args, kwargs))
        sources = self._sources_of(function, given)
        if function is quantized_layer:
            result = args[0].compute_in_float(*args[1:])
        elif INPUT in sources:
            result = function(*args, **kwargs)
        else:
            with FixedArithmetic():  # a constant, which becomes what it is in evaluation
                result = function(*args, **kwargs)
        changed = [tensor for tensor, version in zip(given, before, strict=True) if _version(tensor) != version]
        module, place, operator = caller_of(sys._getframe(1), function)
        if function is quantized_layer:
            module = args[0]
        self.operations.append(
            Operation(
                function, given_args, given_kwargs, _copy(result), module, place, operator, sources, changed, unseen
            )
        )
        for tensor in (*changed, *tensors_in(result)):
            self._add_sources(tensor, sources)
        for tensor in given:
            self.versions[storage_of(tensor)] = _version(tensor)
        return result

    def _add_sources(self, tensor: Tensor, names: frozenset[str]) -> None:
        storage = storage_of(tensor)
        self.sources[storage] = self.sources.get(storage, frozenset()) | names
        self.versions[storage] = _version(tensor)

    def _sources_of(self, function: Callable[..., Any], given: list[Tensor]) -> frozenset[str]:
        """Return what the results of a function are made from."""
        name = getattr(function, "__name__", "")
        if name in _AS_THE_FIRST:
            given = given[:1]
        elif name in _AS_NOTHING:
            given = given[1:]
        return frozenset().union(*(self.sources.get(storage_of(tensor), frozenset()) for tensor in given))


def tensors_in(content: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested tuples, lists and dicts."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, tuple | list | dict):
        for part in content.values() if isinstance(content, dict) else content:
            yield from tensors_in(part)


def map_tensors(content: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return nested tuples, lists and dicts with every tensor in them changed."""
    if isinstance(content, Tensor):
        return change(content)
    if isinstance(content, dict):
        return {key: map_tensors(part, change) for key, part in content.items()}
    if isinstance(content, tuple | list):
        parts = [map_tensors(part, change) for part in content]
        return parts if isinstance(content, list) else tuple(parts)
    return content


def _copy(content: Any) -> Any:
    """Return the same tensors in lists of their own: a network may go on filling the one that it passed."""
    return map_tensors(content, lambda tensor: tensor)


def storage_of(tensor: Tensor) -> Any:
    """Return what is equal for tensors that share memory, on any device, as long as they live."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse ones, and those inside of `vmap`
        return "no storage", id(tensor)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def is_getter(function: Callable[..., Any]) -> bool:
    """Is a function the getter of a property, such as `shape`?"""
    return getattr(function, "__name__", None) == "__get__"
