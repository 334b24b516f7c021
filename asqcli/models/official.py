"""torchvision's official weights: which there are, how they want their images, and their parameters."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from asqcli.errors import MachineError, UsageError, first_line
from asqcli.models.names import CIFAR_DEPTHS, is_factory
from asqcli.models.registry import torchvision_classifiers
from asqcli.models.state import EXTRA, versions_in, with_versions

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

CIFAR_IMAGE_SIZE, IMAGENET_IMAGE_SIZE = 32, 224
DOWNLOAD_TIMEOUT_S = 5


def official_weights(name: str) -> WeightsEnum | None:
    """Return torchvision's ImageNet weights for `name`, or None where it has none.

    The first version that was published, which is what the paper starts from, not the best one.
    """
    weights = _versions(name)
    return next((w for w in weights if w.name == "IMAGENET1K_V1"), weights[0] if weights else None)


def official_weights_meant(name: str, wanted: str) -> WeightsEnum | None:
    """Return the official weights that `--weights` asks for, None where it asks for others.

    Args:
        wanted: `auto`, `official`, or anything else: a file that has the name of torchvision's own is taken for it.
    """
    if wanted in ("auto", "official"):
        return official_weights(name)
    return next((w for w in _versions(name) if _file_name(w) == Path(wanted).name), None)


def _versions(name: str) -> list[WeightsEnum]:
    """Return all of torchvision's weights for `name`; none for what is not a classifier of torchvision's."""
    if is_factory(name) or name in CIFAR_DEPTHS or name not in torchvision_classifiers():
        return []
    from torchvision import models

    return list(models.get_model_weights(name))


def _file_name(weights: WeightsEnum) -> str:
    return weights.url.rpartition("/")[2]


def usual_image_size(name: str) -> int:
    """Return the pixels of the images that `name` is made for: what its official weights were measured on, or 224."""
    if name in CIFAR_DEPTHS:
        return CIFAR_IMAGE_SIZE
    if (weights := official_weights(name)) is None:
        return IMAGENET_IMAGE_SIZE
    return getattr(weights.transforms, "keywords", {}).get("crop_size", IMAGENET_IMAGE_SIZE)


@dataclass(frozen=True)
class OfficialInput:
    """How official weights want their images, by torchvision's own account.

    Attributes:
        values: image_size, resize, mean and std, as in a recipe's `data`.
        note: in what asq does otherwise, or None.
    """

    values: dict[str, Any]
    note: str | None


def official_input(name: str, wanted: str) -> OfficialInput | None:
    """Return how the official weights of `name` want their images, None where `--weights` asks for others."""
    weights = official_weights_meant(name, wanted)
    if weights is None:
        return None
    transforms = weights.transforms()
    values = {
        "image_size": transforms.crop_size[0],
        "resize": transforms.resize_size[0],
        "mean": list(transforms.mean),
        "std": list(transforms.std),
    }
    interpolation = transforms.interpolation.value
    if interpolation == "bilinear":
        return OfficialInput(values, None)
    return OfficialInput(values, f"note: {weights} resize images with {interpolation} interpolation, asq with bilinear")


def require_official(name: str) -> None:
    """Find out whether there are official weights for a known model.

    Raises:
        UsageError: there are none.
    """
    if official_weights(name) is None:
        own = ", or say `--weights factory` if the factory loads its own" if is_factory(name) else ""
        raise UsageError(f"`{name}` has no official weights", f"name a file or a run with --weights{own}")


def fetch_official(name: str) -> tuple[Mapping[str, Tensor], str]:
    """Return (state dict, its name) of torchvision's ImageNet weights, from its cache or the network.

    Raises:
        MachineError: there are none, downloads are forbidden (`ASQ_OFFLINE=1`), or the download failed.
    """
    weights = official_weights(name)
    if weights is None:
        raise MachineError(f"there are no official weights for `{name}`")
    cached = Path(torch.hub.get_dir()) / "checkpoints" / _file_name(weights)
    if not cached.is_file() and os.environ.get("ASQ_OFFLINE") == "1":
        raise MachineError(f"the official weights of `{name}` are not in the cache and ASQ_OFFLINE forbids downloads")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        state = cast("object", weights.get_state_dict(check_hash=True, progress=False))
        if not isinstance(state, Mapping):
            raise TypeError("their file holds no state dict")
    except Exception as error:  # urllib, ssl, socket and hash errors have no common type
        raise MachineError(f"the official weights of `{name}` cannot be had: {first_line(error)}") from error
    finally:
        socket.setdefaulttimeout(before)
    return as_official(name, state), f"torchvision {weights}"


def as_official(name: str, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the state in an official file with what torchvision's builder sets besides, where it sets something."""
    from asqcli.models.input_transform import NETWORKS, TRANSFORMED

    return with_versions({**state, EXTRA: TRANSFORMED}, versions_in(state)) if name in NETWORKS else state
