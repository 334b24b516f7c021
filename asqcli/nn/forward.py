"""The forward of a network in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from asqcli.errors import UnsupportedError
from asqcli.user_code import guest

LOG_SOFTMAX = (F.log_softmax, torch.log_softmax, Tensor.log_softmax, torch.special.log_softmax)


@torch.no_grad()
def run_in_evaluation(model: nn.Module, images: Tensor) -> object:
    """Return whatever `model`, which is in evaluation mode, makes of a batch.

    Raises:
        UnsupportedError: the network raises.
    """
    with guest(f"the network fails in evaluation on a batch of shape {tuple(images.shape)}:"):
        return model(images)


def forward_in_evaluation(model: nn.Module, images: Tensor, *, classes: int | None = None) -> Tensor:
    """Return the logits of a batch, (N, classes), in float32; `model` is in evaluation mode.

    Args:
        classes: how many there must be, where that is known.
    Raises:
        UnsupportedError: the network raises, or returns something else.
    """
    output = run_in_evaluation(model, images)
    if (
        not isinstance(output, Tensor)
        or output.dim() != 2
        or len(output) != len(images)
        or (classes not in (None, output.shape[1]))
    ):
        wanted = "logits" if classes is None else f"{classes} logits"
        raise UnsupportedError(
            f"for {len(images)} images the network returns {shown(output)}, not one row of {wanted} for each",
            "in evaluation it must return one tensor, (N, classes)",
        )
    return output.float()


def logits_before_log_softmax(model: nn.Module, images: Tensor) -> Tensor:
    """Return what an exported file answers: `forward_in_evaluation` without the log_softmax that it may end in.

    That takes one number of all logits of an image, and changes neither their order nor their softmax.
    """
    with _LastLogSoftmax() as last:
        output = forward_in_evaluation(model, images)
    return last.input if output is last.output and last.input is not None else output


class _LastLogSoftmax(TorchFunctionMode):
    """Keeps what the last log_softmax was given, and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.input: Tensor | None = None
        self.output: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in LOG_SOFTMAX:
            self.input, self.output = args[0] if args else (kwargs or {})["input"], result
        return result


def shown(output: object) -> str:
    """Return what a network returned, for a message: the shape of a tensor, the type of anything else."""
    return f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
