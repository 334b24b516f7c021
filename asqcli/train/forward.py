"""The forward of a network, which is code of the user's."""

from __future__ import annotations

from torch import Tensor, nn

from asqcli.errors import UnsupportedError, first_line, ran_out_of_memory
from asqcli.user_code import place_in_user_code


def forward_in_training(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits of a batch, (N, classes).

    Raises:
        UnsupportedError: the network raises, as batch norm does where a channel has one value.
    """
    try:
        return model(images)
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise UnsupportedError(
            f"the network fails in training on a batch of shape {tuple(images.shape)}: "
            f"{type(error).__name__}: {first_line(error)}",
            "batch norm needs more than one value of a channel: try a larger `--batch-size` or image",
        ) from error


def forward_in_evaluation(model: nn.Module, images: Tensor, *, classes: int | None = None) -> Tensor:
    """Return the logits of a batch, (N, classes).

    Args:
        classes: how many there must be, where that is known.
    Raises:
        UnsupportedError: the network raises, or returns something else.
    """
    try:
        logits = model(images)
    except (Exception, SystemExit) as error:
        if ran_out_of_memory(error):
            raise
        place = place_in_user_code(error)
        raise UnsupportedError(
            f"the network fails in evaluation on a batch of shape {tuple(images.shape)}: "
            f"{type(error).__name__}: {first_line(error)}" + (f" at {place}" if place else ""),
            "it must take images of 3 channels, of this size and in batches; run again with --debug to see where",
        ) from error
    wanted = f"one row of {'' if classes is None else f'{classes} '}logits for each image"
    if not isinstance(logits, Tensor):
        raise UnsupportedError(f"in evaluation the network returns {type(logits).__name__}, not {wanted}")
    if logits.dim() != 2 or len(logits) != len(images) or classes not in (None, logits.shape[1]):
        got = f"{tuple(logits.shape)} for a batch of {len(images)}"
        raise UnsupportedError(f"in evaluation the network returns {got}, not {wanted}")
    return logits
