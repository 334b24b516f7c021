"""Which modules a network calls, in which order, on inputs of which shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(eq=False)
class Call:
    """One call of one module.

    Attributes:
        name: as in `named_modules`; "" is the network itself.
        module: what was called.
        input_shape: of its first tensor, or None where it got none.
        output_shape: of what it returned, or None while it runs and where that is no tensor.
    """

    name: str
    module: nn.Module
    input_shape: torch.Size | None
    output_shape: torch.Size | None = None

    def __str__(self) -> str:
        kind = type(self.module).__name__
        what = f"layer `{self.name}` ({kind})" if self.name else f"the network itself ({kind})"
        return what if self.input_shape is None else f"{what}, which gets {tuple(self.input_shape)}"


class CallRecord(AbstractContextManager["CallRecord"]):
    """Records every call of a module of `model` inside a `with` block.

    A module that is used twice gives two calls; one that goes by two names is called by the first of them.

    Attributes:
        calls: in the order in which they began.
        running: those that have begun and not ended, the innermost last. After an exception: where it came from.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls: list[Call] = []
        self.running: list[Call] = []
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> CallRecord:
        for name, module in self.model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks of this kind
                self._hooks.append(module.register_forward_pre_hook(self._begin(name), with_kwargs=True))
                self._hooks.append(module.register_forward_hook(self._end))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _begin(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = Call(name, module, next((v.shape for v in _tensors((*args, *kwargs.values()))), None))
            self.calls.append(call)
            self.running.append(call)

        return hook

    def _end(self, module: nn.Module, _: object, output: object) -> None:
        # Calls further in that ended by an exception, which the network caught itself, are still there.
        while (call := self.running.pop()).module is not module:
            pass
        call.output_shape = output.shape if isinstance(output, Tensor) else None


def _tensors(values: tuple[Any, ...]) -> Iterator[Tensor]:
    return (value for value in values if isinstance(value, Tensor))
