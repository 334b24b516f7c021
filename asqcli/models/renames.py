"""What torchvision's files have otherwise than its networks: old names, and heads that only training runs.

torchvision itself renames when it loads, in the builder or in a module, and leaves the heads out after loading.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from torch import Tensor, nn

from asqcli.models.state import versions_in, with_versions

_RENAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])(?=\.|$)"), r"\1\2"),  # DenseNet
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1(?=\.|$)"), r"\1.0"),  # vision transformers
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2(?=\.|$)"), r"\1.3"),
)
AUXILIARY_HEADS = ("aux1", "aux2", "AuxLogits")  # GoogLeNet's, Inception's


def as_named_now(own: Container[str], state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `state` with the names of a network, `own`, in the place of old ones; others stay as they are."""
    old = (name for name in state if name not in own)
    new = {name: renamed for name in old if (renamed := _renamed(name)) in own and renamed not in state}
    if not new:
        return state
    versions = {_renamed(module): version for module, version in versions_in(state).items()}
    return with_versions({new.get(name, name): tensor for name, tensor in state.items()}, versions)


def _renamed(name: str) -> str:
    for old, now in _RENAMES:
        name = old.sub(now, name)
    return name


def without_auxiliary_heads(
    model: nn.Module, state: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return (`state` without the auxiliary heads that `model` was built without, the names of those heads)."""
    heads = tuple(head for head in AUXILIARY_HEADS if getattr(model, head, model) is None)
    found = tuple(head for head in heads if any(name.startswith(f"{head}.") for name in state))
    if not found:
        return state, ()
    kept = {name: tensor for name, tensor in state.items() if name.partition(".")[0] not in found}
    return with_versions(kept, versions_in(state)), found
