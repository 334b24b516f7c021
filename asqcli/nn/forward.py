"""The forward of a network in evaluation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asqcli.errors import UnsupportedError
from asqcli.user_code import guest


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


def shown(output: object) -> str:
    """Return what a network returned, for a message: the shape of a tensor, the type of anything else."""
    return f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
