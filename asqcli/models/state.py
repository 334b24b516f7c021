"""State dicts: tensors by name, the extra state of modules, and the versions that modules write into them.

`state_dict()` keeps the versions of its modules in an attribute that a copy as a plain dict loses. Modules read them
when they load: torchvision's MNASNet refuses a state without, and becomes another network for version 1.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from asqcli.errors import UnsupportedError, some_of
from asqcli.user_code import guest

EXTRA = "_extra_state"


def is_extra(name: str) -> bool:
    """Does a name in a state dict stand for what a module's `get_extra_state` returned?"""
    return name.rpartition(".")[2] == EXTRA


def may_be_missing(name: str) -> bool:
    """May a file lack it? Old ones have no counters of batches, and files of tensors alone no extra state."""
    return name.endswith("num_batches_tracked") or is_extra(name)


def versions_in(state: Mapping[str, Any]) -> dict[str, int]:
    """Return the versions that a state dict holds, by module; what a stranger's file has in their place is left out."""
    metadata = getattr(state, "_metadata", None)
    if not isinstance(metadata, Mapping):
        return {}
    versions = {n: local.get("version") for n, local in metadata.items() if isinstance(local, Mapping)}
    return {name: v for name, v in versions.items() if isinstance(name, str) and isinstance(v, int)}


def with_versions(state: Mapping[str, Any], versions: Mapping[str, int]) -> OrderedDict[str, Any]:
    """Return a state dict that has these versions in it, as `state_dict()` puts them there."""
    versioned = OrderedDict(state)
    metadata = OrderedDict((name, {"version": version}) for name, version in versions.items())
    versioned._metadata = metadata  # pyright: ignore[reportAttributeAccessIssue]  # torch's own place for it
    return versioned


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Return a state dict that does not follow the model."""
    return copy.deepcopy(model.state_dict())


def adopt_versions(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Let modules whose layers depend on the version of a state become what it was made from.

    Call it on a float network, before `state` is compared with the network's own: shapes may differ before.
    """
    stored, own = versions_in(state), versions_in(model.state_dict())
    if any(stored.get(name, version) != version for name, version in own.items()):
        with contextlib.suppress(RuntimeError):  # another shape, missing: whoever loads in earnest tells that
            model.load_state_dict(with_versions(state, stored), strict=False)


def load_state(model: nn.Module, state: Mapping[str, Any], *, strict: bool = True) -> None:
    """Copy a state into `model`, after `adopt_versions` where it is from a file.

    Extra state that `state` lacks stays as it is: files of tensors alone have none.

    Raises:
        RuntimeError, or whatever a module's own loading raises: it does not fit.
    """
    own = model.state_dict()
    versions, stored = versions_in(own), versions_in(state)
    for name, module in model.named_modules(remove_duplicate=False):
        # Where the state is of the module's own version, it is told the version that its code is written for: MNASNet,
        # once adopted as version 1, would put new layers in the place of those that are there.
        if name in versions and stored.get(name, versions[name]) == versions[name]:
            versions[name] = type(module)._version
        elif name in stored:
            versions[name] = stored[name]
    kept = {name: value for name, value in own.items() if is_extra(name)}
    model.load_state_dict(with_versions({**kept, **state}, versions), strict=strict)


def refuse_unsaveable(model: nn.Module) -> None:
    """Refuse a network whose state cannot be kept in a checkpoint.

    Raises:
        UnsupportedError: names the module.
    """
    with guest("the network's `state_dict()` raised"):
        state = model.state_dict()
    if missing := [name for name, p in model.named_parameters() if p.requires_grad and name not in state]:
        raise UnsupportedError(
            f"the `state_dict()` of the network leaves out {some_of(missing)}",
            "a checkpoint must hold all that is trained",
        )
    for name, value in state.items():
        module = name.rpartition(".")[0]
        where = f"layer `{module}`" if module else "the network itself"
        if is_extra(name) and not (isinstance(value, Tensor) or _fits_json(value)):
            raise UnsupportedError(
                f"the extra state of {where} is a {type(value).__name__} that no JSON document can hold",
                "`get_extra_state` may return a tensor, or numbers and texts in lists and dicts with texts as keys",
            )
        if not is_extra(name) and not isinstance(value, Tensor):
            raise UnsupportedError(f"`{name}` in the network's state is a {type(value).__name__}, not a tensor")
        if isinstance(value, Tensor) and (reason := _why_unsaveable(value)) is not None:
            raise UnsupportedError(f"`{name}` in the network's state {reason}", "a checkpoint holds plain tensors")


def _why_unsaveable(tensor: Tensor) -> str | None:
    if tensor.is_meta:
        return "has a shape but no values (`device='meta'`)"
    if tensor.layout != torch.strided or tensor.is_quantized:
        return f"is a tensor of the kind {tensor.layout}, {tensor.dtype}"
    try:
        save({"x": tensor.new_empty(0)})
    except Exception:  # safetensors has no common type for what it does not know
        return f"is of type {tensor.dtype}"
    return None


def _fits_json(value: object) -> bool:
    """Does a value come back from JSON as it was?"""
    try:
        again = json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return False
    return _same(value, again)


def _same(a: object, b: object) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return all(map(_same, a, b)) and len(a) == len(b)
    return a == b


@dataclass(frozen=True)
class StateParts:
    """A state dict, cut into what a file holds.

    Attributes:
        tensors: by name.
        extra: extra state that is no tensor, in JSON.
        versions: by module.
    """

    tensors: dict[str, Tensor]
    extra: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> StateParts:
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        extra = {name: value for name, value in state.items() if name not in tensors}
        return cls(tensors, extra, versions_in(state))

    def joined(self) -> OrderedDict[str, Any]:
        """Return the state dict again."""
        return with_versions({**self.tensors, **self.extra}, self.versions)
