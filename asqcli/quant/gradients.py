"""What the backwards of autograd functions have in common, and gradients that nobody else has a part in."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

Gradients = tuple[Tensor | None, ...]


def from_saved(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Make the backward of an autograd function of one of (ctx, saved tensors, gradients), which has none itself.

    A backward may run in a mode that is meant for what a network runs again there, such as checkpointed parts. These
    come with the saved tensors; the mode would see each attribute that the rest asks a tensor for: in a step of
    ResNet-20 two thousand times.
    """

    @once_differentiable
    @wraps(backward)
    def plain(ctx: Any, *grads: Tensor) -> Gradients:
        saved = ctx.saved_tensors
        with _without_modes():
            return backward(ctx, saved, *grads)

    return plain


# No public function leaves modes; where PyTorch has not the private one, they see all.
_without_modes: Callable[[], AbstractContextManager[object]] = getattr(torch._C, "DisableTorchFunction", nullcontext)  # pyright: ignore[reportPrivateUsage]


@contextmanager
def undisturbed(device: torch.device) -> Generator[None]:
    """Let gradients be computed inside as if nothing were around: no mode, no autocast, no hooks of checkpointing."""
    kind = device.type
    no_autocast = torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
    with _without_modes(), no_autocast, saved_tensors_hooks(_itself, _itself), torch.enable_grad():
        yield


def _itself(tensor: Tensor) -> Tensor:
    return tensor
