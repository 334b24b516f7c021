"""The state dict of a network, found in whatever a program saved around it.

Under each branch of a file's tree lies a candidate, named by what follows, so that in
`{"state_dict": {"model.fc.weight": ..}}` there is one under `state_dict.model`. The network's own names decide between
them, and nothing is cut off a name that fits as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asqcli.errors import InputError, printable, some_of
from asqcli.models.renames import as_named_now
from asqcli.models.state import is_extra, may_be_missing, with_versions
from asqcli.models.stored.file import FORMATS, read_file
from asqcli.models.stored.tree import Place, Tree

# Wrappers of a network, or a part of it, that run it on several devices, in less memory, or compiled.
WRAPPERS = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Counters of profilers and averages of weights in a network's own state.
COUNTERS = {"total_ops", "total_params", "n_averaged"}
AVERAGED = {"ema", "swa", "average", "averaged", "avg"}  # words in the names of averaged weights
USUAL = WRAPPERS | {
    "state_dict", "model", "net", "network", "model_state_dict", "model_state", "params", "weights",
}  # fmt: skip
_DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}


@dataclass(frozen=True)
class StoredState:
    """A state dict from a file.

    Attributes:
        state: by the network's names, or old ones of torchvision's, as far as these are there, with the versions of
            modules.
        about: how much of the network it has, and what else the file holds, for an error where it does not fit.
    """

    state: Mapping[str, Tensor]
    about: str


@dataclass(eq=False)
class _Candidate:
    """What lies under a place, by names that are the network's where they fit.

    Its names may be old ones of torchvision's, which fit as well; whoever loads the state renames them.

    Attributes:
        named: values by these names; what is no tensor only where the network has its name.
        renamed: are wrappers left out of these names?
        missing: how many names of the network are not there.
        fitting: how many tensors have name and shape of one of the network's.
        unexpected: how many have a name that the network lacks.
    """

    place: Place
    named: dict[str, Any]
    renamed: bool
    missing: int
    fitting: int
    unexpected: int

    @property
    def rank(self) -> int:
        """What goes first where several fit: averages, then what stands under usual names."""
        words = {word for part in self.place for word in re.split(r"[\W_]+", part.lower())}
        return 0 if words & AVERAGED else 1 if USUAL.issuperset(self.place) else 2

    @property
    def where(self) -> str:
        return f"`{printable('.'.join(self.place))}`" if self.place else "the outermost names"


def read_weights(path: Path, model: nn.Module, tell: Callable[[str], None] = lambda _: None) -> StoredState:
    """Return the state dict in a file that fits `model` best, on the CPU.

    Args:
        tell: hears of what was taken where there was a choice, and of what was left out.
    Raises:
        InputError: missing, unreadable, not weights, tensors without plain values, or several that fit alike.
    """
    content, own = read_file(path), model.state_dict()
    tree = Tree(content)
    found = list(_candidates(tree, own))
    if not found:
        raise InputError(f"`{path}` holds no state dict; {_outermost(content)}", FORMATS)
    best = min(found, key=lambda c: (c.missing, -c.fitting, c.rank, c.unexpected, len(c.place)))
    rivals = [c for c in found if _rival(c, best)]
    _tell_of_choice(path, best, rivals, tell)
    if not best.missing:
        beside = tree.beside([best.place, *(c.place for c in rivals)])
        if left := [name for name in beside if _last(name) not in COUNTERS]:
            tell(f"note: only what is under {best.where} in `{path}` is used, not {printable(some_of(left))}")
    _require_tensors(path, best, tree)
    required = [name for name in own if not may_be_missing(name)]
    about = f"{len(required) - best.missing} of the network's {len(required)} names are there; {_outermost(content)}"
    if best.place:
        about += f"; most names fit under {best.where}"
    modules = {_without_wrappers(name): name for name, _ in model.named_modules()}

    def rename(module: str) -> str:
        short = _without_wrappers(module)
        return modules.get(short, short) if best.renamed else module

    return StoredState(with_versions(best.named, tree.versions_under(best.place, rename)), about)


def _candidates(tree: Tree, own: Mapping[str, Any]) -> Iterator[_Candidate]:
    """Yield each branch by its names as they are, and where these do not fit, without wrappers in them."""
    plain = {_without_wrappers(name): name for name in own}
    for place, named in tree.branches().items():
        candidate = _candidate(place, named, own)
        yield candidate
        if candidate.missing and len(plain) == len(own):
            renamed = {plain.get(short := _without_wrappers(name), short): value for name, value in named.items()}
            if len(renamed) == len(named) and renamed.keys() != named.keys():
                yield _candidate(place, renamed, own, renamed=True)


def _candidate(place: Place, named: dict[str, Any], own: Mapping[str, Any], *, renamed: bool = False) -> _Candidate:
    def counts(name: str, value: object) -> bool:
        return name in own or ((isinstance(value, Tensor) or is_extra(name)) and _last(name) not in COUNTERS)

    kept = {name: value for name, value in named.items() if counts(name, value)}
    now = as_named_now(own, kept)
    missing = sum(name not in now for name in own if not may_be_missing(name))
    shapes = {name: value.shape for name, value in own.items() if isinstance(value, Tensor)}
    fitting = sum(isinstance(value, Tensor) and value.shape == shapes.get(name) for name, value in now.items())
    unexpected = sum(name not in own for name in now)
    return _Candidate(place, kept, renamed, missing, fitting, unexpected)


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _rival(candidate: _Candidate, best: _Candidate) -> bool:
    """Does another candidate fit as well, with other weights in it?"""
    if candidate is best or candidate.missing or best.missing or candidate.fitting < best.fitting:
        return False
    return not all(_equal(candidate.named[name], best.named[name]) for name in candidate.named.keys() & best.named)


def _equal(a: object, b: object) -> bool:
    if a is b or not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return a is b
    return _what_is_wrong(a) is None and _what_is_wrong(b) is None and a.dtype == b.dtype and torch.equal(a, b)


def _tell_of_choice(path: Path, best: _Candidate, rivals: list[_Candidate], tell: Callable[[str], None]) -> None:
    """Tell which of several was taken.

    Raises:
        InputError: nothing decides between them.
    """
    if not rivals:
        return
    if alike := [c for c in rivals if c.rank == best.rank]:
        names = " and ".join(c.where for c in (best, *alike))
        raise InputError(f"`{path}` holds several networks that fit: {names}", "save the one that you mean by itself")
    reason = "averaged weights go first" if best.rank == 0 else "the usual name goes first"
    others = ", ".join(c.where for c in rivals)
    tell(f"note: of the weights in `{path}` those under {best.where} are taken, not {others}: {reason}")


def _require_tensors(path: Path, best: _Candidate, tree: Tree) -> None:
    """Refuse what no network can have, by name."""
    if (odd := tree.odd_names.get(tree.dict_around(best.place))) is not None:
        (name,) = odd
        raise InputError(
            f"`{printable(str(name))}` in `{path}` is a name of type {type(name).__name__}; names of parameters are "
            "text",
            FORMATS,
        )
    for name, value in best.named.items():
        if not is_extra(name) and (wrong := _what_is_wrong(value)) is not None:
            raise InputError(f"`{printable(name)}` in `{path}` {wrong}", FORMATS)


def _outermost(content: Mapping[Any, Any]) -> str:
    """Return in words what a file holds outermost."""
    keys = [f"`{printable(str(key))}`" for key in content]
    return f"outermost the file holds {some_of(keys)}" if keys else "it is empty"


def _what_is_wrong(value: object) -> str | None:
    """Return why an entry is no parameter, None where it is one; other types of plain numbers are converted later."""
    if not isinstance(value, Tensor):
        return f"is of type {type(value).__name__}, not a tensor"
    if value.is_meta:
        return "is a meta tensor, which has no values"
    if value.is_nested or value.layout != torch.strided:
        return f"is a {'nested' if value.is_nested else 'sparse'} tensor; save it with `to_dense()`"
    if value.is_quantized or value.dtype not in _DTYPES:
        return f"is of type {str(value.dtype).removeprefix('torch.')}; save it as float32"
    return None
