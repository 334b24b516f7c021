"""Proof that a prepared network calls its quantized layers, and nothing in their place.

The twins share their parameters and statistics with the layers that they replaced. So whatever still reaches one of
those, by a list, a closure, a cache or a bound method, and whatever computes with a layer's weight by itself, brings
together the network's input and a tensor of a twin outside that twin: the record shows it, however it came about.
"""

from __future__ import annotations

from collections import Counter

from torch import nn

from asqcli.errors import UnsupportedError, some_of
from asqcli.nn.layer_calls import is_derived, own_calls
from asqcli.nn.record import INPUT, Operation, Record, executions

PRODUCTS = (
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "bilinear",
    "matmul", "rmatmul", "mm", "bmm", "mv", "dot", "vdot", "inner", "outer", "addmm", "addbmm", "baddbmm", "addmv",
    "einsum", "tensordot", "linalg_multi_dot", "scaled_dot_product_attention", "multi_head_attention_forward",
)  # fmt: skip
_SHARED = ("weight", "bias", "running_mean", "running_var")  # tensors that a layer and its twin compute with
_CALL_BY_NAME = "hold layers in nn.ModuleList or nn.ModuleDict, and call a layer by its attribute each time"


def prove(twins: dict[nn.Module, nn.Module], before: Record, after: Record) -> None:
    """Compare a run of a prepared network with one of the float network on the same input.

    Args:
        twins: the layers that were replaced, each with what stands in its place.
        before: the float network's run, its layers in place.
        after: the prepared network's.
    Raises:
        UnsupportedError: a layer is called past its twin, another number of times, or has its weight used elsewhere;
            names it and the place in the source.
    """
    names = {module: name for name, module in after.model.named_modules()}
    _refuse_ways_past(twins, names, after)
    runs = Counter(operation.module for operation in after.operations if operation.is_layer)
    for layer, own in executions(before).items():
        if layer not in twins:
            continue
        times = len(own_calls(layer, own)) if is_derived(layer) else len(own)
        if times != runs[twins[layer]]:
            raise UnsupportedError(
                f"{_title(layer, twins, names)} runs {_times(times)} in the float "
                f"network, and {_times(runs[twins[layer]])} once it is quantized{own[0].place}",
                f"{_CALL_BY_NAME}; a forward must not choose its layers by the values of tensors",
            )


def float_products(record: Record) -> str | None:
    """Return in words which products of a prepared network are in no layer, and so stay in float."""
    texts = {
        f"`{operation.name}`{_with(operation)}{operation.place}": None
        for operation in record.operations
        if operation.name in PRODUCTS and operation.gives_values
    }
    if not texts:
        return None
    return f"products outside of layers stay in float: {some_of(list(texts))}"


def _refuse_ways_past(twins: dict[nn.Module, nn.Module], names: dict[nn.Module, str], after: Record) -> None:
    originals = {twin: layer for layer, twin in twins.items()}
    owners = {
        f"{name}.{tensor}": (module, tensor)
        for name, module in after.model.named_modules(remove_duplicate=False)
        if module in originals and not _runs_its_authors_norm(originals[module])
        for tensor in _SHARED
    }
    for operation in after.operations:
        if operation.is_layer or not operation.gives_values:
            continue
        if operation.module in twins:
            raise UnsupportedError(
                f"{_title(operation.module, twins, names)}, which is replaced by a quantized one, is called "
                f"itself{operation.place}",
                _CALL_BY_NAME,
            )
        owned = sorted(source for source in operation.sources if source in owners)
        if owned:
            twin, tensor = owners[owned[0]]
            layer = originals[twin]
            where = "beside its product" if is_derived(layer) else "outside of it"
            raise UnsupportedError(
                f"the {tensor} of {_title(layer, twins, names)} is used {where} by `{operation.name}`{operation.place}",
                "what a layer computes when it is called is quantized: call it, or use a parameter of the network's "
                "own, which stays in float",
            )
        module = operation.module
        if module is not None and module not in names and (module._parameters or module._buffers):
            raise UnsupportedError(
                f"a {type(module).__name__} is called that is no layer of the network{operation.place}",
                f"it would be neither trained nor saved: {_CALL_BY_NAME}",
            )


def _runs_its_authors_norm(layer: nn.Module) -> bool:
    """Does the twin of a layer run a forward that may use the tensors of its batch norm in other ways, too?"""
    return is_derived(layer) and not isinstance(layer, nn.Conv2d | nn.Linear)


def _title(layer: nn.Module, twins: dict[nn.Module, nn.Module], names: dict[nn.Module, str]) -> str:
    return f"layer `{names.get(twins[layer], '')}` ({type(layer).__name__})"


def _with(operation: Operation) -> str:
    own = sorted(operation.sources - {INPUT})
    return f" with `{own[0]}`" if own else ""


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
