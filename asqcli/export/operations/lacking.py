"""Operations that networks have and the engine does not: why, and what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.nn import functional as F

from asqcli.export.graph import Unsupported
from asqcli.export.operations.registry import named

_OTHER_NORM = "it normalises in another way than by the statistics that a batch norm keeps, which the engine has alone"
_USE_BATCH_NORM = "use nn.BatchNorm2d in its place, or nn.BatchNorm1d"

# By the functions' names in torch: the reason, and a hint.
_KNOWN = {
    ("softmax",): (
        "the engine makes no probabilities: training's loss and the scores of `asq infer` take logits",
        "where it is the network's last operation, return the logits themselves",
    ),
    ("local_response_norm",): (
        "it takes a power of sums, which the engine does not",
        "leave it out, as newer forms of such networks do, or use nn.BatchNorm2d in its place",
    ),
    ("instance_norm", "layer_norm", "group_norm", "rms_norm", "normalize"): (_OTHER_NORM, _USE_BATCH_NORM),
}
_BY_FUNCTION = {f: text for names, text in _KNOWN.items() for name in names if hasattr(F, name) for f in named(name)}


def lacking(function: Callable[..., Any], kind: str) -> Unsupported:
    """Return why a function of torch that no handler is registered for cannot be exported.

    Args:
        kind: of what called it: layer or operation.
    """
    return Unsupported(*_BY_FUNCTION.get(function, (f"there is no such {kind} in the engine",)))
