"""GoogLeNet and Inception, which scale their input first where their weights are torchvision's own.

Those were trained on images with a mean and deviation of 0.5; torchvision tells the constructor so when it loads them
(`transform_input`), and the images come as for all its networks. Here that is part of the network's state: a run keeps
it, and whoever opens the run has it. A state without, of a run or a file from elsewhere, leaves the network as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torchvision import models

_KEY = "transform_input"
SCALED_MEAN = 0.5  # mean of each channel of the images, once they are scaled
TRANSFORMED = {_KEY: True}  # extra state of a network that scales its input


class _KeepsTransform(nn.Module):
    """Has `transform_input` in its state."""

    transform_input: bool

    def get_extra_state(self) -> dict[str, bool]:
        return {_KEY: self.transform_input}

    def set_extra_state(self, state: object) -> None:
        if not isinstance(state, dict) or state.keys() != {_KEY} or not isinstance(state[_KEY], bool):
            raise ValueError(f"the extra state of the network does not say whether it has `{_KEY}`")
        self.transform_input = state[_KEY]


class GoogLeNet(_KeepsTransform, models.GoogLeNet):
    """torchvision's, and keeps `transform_input`."""


class Inception3(_KeepsTransform, models.Inception3):
    """torchvision's, and keeps `transform_input`."""


NETWORKS = {"googlenet": GoogLeNet, "inception_v3": Inception3}


def missing_transform(model: nn.Module, name: str, mean: Sequence[float]) -> str | None:
    """Return in words that torchvision would scale a network's input if its own weights had been the start.

    A file does not tell whether its network did. Here it does not, unless the images come as that would make them.

    Args:
        name: the network's, for the text.
        mean: of the channels of its images.
    """
    if not isinstance(model, _KeepsTransform) or model.transform_input or set(mean) == {SCALED_MEAN}:
        return None
    return (
        f"`{name}` is built with `transform_input=False`; weights that were trained with True, as those made "
        "from torchvision's own, want --set data.mean=[0.5,0.5,0.5] --set data.std=[0.5,0.5,0.5]"
    )
