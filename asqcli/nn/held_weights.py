"""The levels of weights, kept while a network only evaluates: quantizing 11 million takes as long as a small batch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Kept:
    state: list[tuple[int, int, int]]
    tensors: list[Tensor]  # alive, so that no other one gets the identity of one of them
    result: Any


_held: ContextVar[dict[nn.Module, _Kept] | None] = ContextVar("held", default=None)


@contextmanager
def weights_held() -> Generator[None]:
    """Let every layer quantize its weight once in this context; within another one nothing changes.

    A tensor that is written to meanwhile is quantized anew, unless that goes by its `data`, which leaves no trace.
    """
    if _held.get() is not None:
        yield
        return
    token = _held.set({})
    try:
        yield
    finally:
        _held.reset(token)


def held(layer: nn.Module, tensors: list[Tensor], compute: Callable[[], Any]) -> Any:
    """Return `compute()`, or what it returned in this context for the same layer.

    Args:
        layer: whose result it is.
        tensors: that the result depends on.
    """
    kept = _held.get()
    if kept is None or torch.is_grad_enabled() or any(tensor.is_inference() for tensor in tensors):
        return compute()
    state = [(id(tensor), tensor.data_ptr(), tensor._version) for tensor in tensors]
    if layer not in kept or kept[layer].state != state:
        kept[layer] = _Kept(state, tensors, compute())
    return kept[layer].result
