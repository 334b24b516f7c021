"""How functions of torch get to what makes nodes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LIBRARIES = (torch, F, Tensor)


@dataclass(frozen=True)
class Entry:
    """One handler.

    Attributes:
        handler: takes a `Call` and the arguments of torch's function, by their names, and returns the value.
        functions: of torch; what a record holds.
        says: what the engine can do by it, for errors.
        takes_stacks: may an argument be a `Stack`? Otherwise it gets the value that joins it.
    """

    handler: Callable[..., Any]
    functions: tuple[Callable[..., Any], ...]
    says: str
    takes_stacks: bool


ENTRIES: list[Entry] = []


def lowers(
    *functions: Callable[..., Any] | str, says: str, takes_stacks: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator: what follows makes nodes of calls of these functions.

    Args:
        functions: themselves, or by the name that they have in torch, torch.nn.functional or torch.Tensor; that with
            `_`, which works in place, is meant by it, too.
        says: what the engine has by it, a noun; handlers may share it.
        takes_stacks: may it get a `Stack`?
    Raises:
        LookupError: torch has nothing of that name, or another handler has it already.
    """
    found = tuple(f for function in functions for f in (named(function) if isinstance(function, str) else [function]))
    if taken := [f for entry in ENTRIES for f in entry.functions if f in found]:
        raise LookupError(f"{taken[0]} has a handler already")

    def register(handler: Callable[..., Any]) -> Callable[..., Any]:
        ENTRIES.append(Entry(handler, found, says, takes_stacks))
        return handler

    return register


def named(name: str) -> list[Callable[..., Any]]:
    """Return the functions and methods of that name, the ones in place among them."""
    forms = (getattr(library, form, None) for library in LIBRARIES for form in (name, f"{name}_"))
    found = [function for function in forms if callable(function)]
    if not found:
        raise LookupError(f"torch has no function or method `{name}`")
    return found
