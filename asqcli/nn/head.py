"""The head: the layer whose outputs are a network's logits, found by running it, as it may be defined anywhere."""

from __future__ import annotations

from torch import Tensor, nn

from asqcli.errors import UnsupportedError
from asqcli.nn.record import executions, record_or_refuse, tensors_in


def find_head(model: nn.Module, example: Tensor) -> str | None:
    """Return the name of the last layer to run on the way to the logits, None where that is no plain layer.

    Args:
        example: one input, (1, 3, H, W).
    Raises:
        UnsupportedError: the network raises.
    """
    run = record_or_refuse(model, example)
    if not isinstance(run.output, Tensor) or run.output.dim() != 2:
        return None
    made = (o for o in reversed(run.operations) if any(t is run.output for t in tensors_in(o.result)))
    sources = next((o.sources for o in made), frozenset())
    order = {operation: number for number, operation in enumerate(run.operations)}
    names = {module: name for name, module in model.named_modules()}
    last: dict[int, str] = {}
    for module, operations in executions(run).items():
        makes_logits = isinstance(module, nn.Linear | nn.Conv2d) and module.weight.shape[0] == run.output.shape[1]
        if makes_logits and f"{names.get(module)}.weight" in sources:
            last[order[operations[-1]]] = names[module]
    return last[max(last)] if last else None


def replace_head(model: nn.Module, example: Tensor, classes: int) -> str | None:
    """Put a new head for so many classes into a network; return its name, None where it stays as it is.

    It stays where no plain layer makes the logits, or where the network does not answer with `classes` logits then.

    Args:
        example: one input, (1, 3, H, W).
    Raises:
        UnsupportedError: the network raises as it is.
    """
    name = find_head(model, example)
    if not name:
        return None
    old = model.get_submodule(name)
    new = _like(old, classes)
    if new is None or old._forward_hooks or old._forward_pre_hooks:
        return None
    new.train(old.training)
    _put(model, old, new)
    try:
        output = record_or_refuse(model, example).output
    except UnsupportedError:  # it counts on its own number of classes elsewhere
        output = None
    if isinstance(output, Tensor) and output.shape == (1, classes):
        return name
    _put(model, new, old)
    return None


def _put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if child is old:
                setattr(module, name, new)


def _like(layer: nn.Module, classes: int) -> nn.Module | None:
    """Return a new layer like a head, for another number of classes; None where there is none like it."""
    if type(layer) is nn.Linear:
        with_bias = layer.bias is not None  # pyright: ignore[reportUnnecessaryComparison]
        return nn.Linear(layer.in_features, classes, bias=with_bias)
    if type(layer) is nn.Conv2d and layer.groups == 1:
        return nn.Conv2d(
            layer.in_channels,
            classes,
            layer.kernel_size,  # pyright: ignore[reportArgumentType]
            stride=layer.stride,  # pyright: ignore[reportArgumentType]
            padding=layer.padding,  # pyright: ignore[reportArgumentType]
            dilation=layer.dilation,  # pyright: ignore[reportArgumentType]
            bias=layer.bias is not None,
            padding_mode=layer.padding_mode,  # pyright: ignore[reportArgumentType]
        )
    return None
