"""The forward of a network in training."""

from __future__ import annotations

from torch import Tensor, nn

from asqcli.errors import UnsupportedError, first_line, ran_out_of_memory


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
