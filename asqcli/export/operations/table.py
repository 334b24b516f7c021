"""All operations that can be exported, and the words for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asqcli.export.operations import arithmetic, elementwise, layers, movement, pads, pools, reductions, repeats, slices
from asqcli.export.operations.registry import ENTRIES, Entry

# In the order in which they are told.
MODULES = (layers, elementwise, arithmetic, repeats, pools, reductions, movement, slices, pads)


def _place(entry: Entry) -> int:
    return [module.__name__ for module in MODULES].index(entry.handler.__module__)


HANDLERS: dict[Callable[..., Any], Callable[..., Any]] = {
    function: entry.handler for entry in ENTRIES for function in entry.functions
}
TAKES_STACKS = {entry.handler for entry in ENTRIES if entry.takes_stacks}
*_MOST, _LAST = dict.fromkeys(entry.says for entry in sorted(ENTRIES, key=_place))  # each once, in order
SUPPORTED = f"the engine has {', '.join(_MOST)} and {_LAST}"
