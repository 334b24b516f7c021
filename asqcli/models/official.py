"""The official weights of torchvision and timm: which there are, how they want their images, and their parameters."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from asqcli.errors import MachineError, UsageError, first_line
from asqcli.models import timm_networks
from asqcli.models.names import CIFAR_DEPTHS, is_factory, is_timm
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
    if is_factory(name) or is_timm(name) or name in CIFAR_DEPTHS or name not in torchvision_classifiers():
        return []
    from torchvision import models

    return list(models.get_model_weights(name))


def _file_name(weights: WeightsEnum) -> str:
    return weights.url.rpartition("/")[2]


def usual_image_size(name: str) -> int:
    """Return the pixels of the images that `name` is made for: what its official weights were measured on, or 224."""
    if name in CIFAR_DEPTHS:
        return CIFAR_IMAGE_SIZE
    if is_timm(name) and timm_networks.is_timm_network(name):
        return timm_networks.pretrained_settings(name).input_size[-1]
    if (weights := official_weights(name)) is None:
        return IMAGENET_IMAGE_SIZE
    return getattr(weights.transforms, "keywords", {}).get("crop_size", IMAGENET_IMAGE_SIZE)


@dataclass(frozen=True)
class OfficialInput:
    """How official weights want their images, by the account of torchvision or timm.

    Attributes:
        values: image_size, resize, mean and std, as in a recipe's `data`.
        note: in what asq does otherwise, or None.
    """

    values: dict[str, Any]
    note: str | None


def official_input(name: str, wanted: str) -> OfficialInput | None:
    """Return how the official weights of `name` want their images, None where `--weights` asks for others."""
    if is_timm(name):
        asked = wanted in ("auto", "official") and timm_networks.is_timm_network(name)
        return _timm_input(name) if asked and timm_networks.has_weights(name) else None
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
    return OfficialInput(values, _note_on(str(weights), transforms.interpolation.value))


def _timm_input(name: str) -> OfficialInput:
    settings = timm_networks.pretrained_settings(name)
    _, height, width = settings.input_size
    size = min(height, width)
    values = {
        "image_size": size,
        "resize": math.floor(size / settings.crop_pct),
        "mean": list(settings.mean),
        "std": list(settings.std),
    }
    others = [f"take images of {height}x{width} pixels, asq square ones"] if height != width else []
    if settings.crop_mode != "center":
        others.append(f"crop by the mode {settings.crop_mode}, asq at the centre")
    return OfficialInput(values, _note_on(name, settings.interpolation, *others))


def _note_on(weights: str, interpolation: str, *others: str) -> str | None:
    """Return in words what asq does otherwise than is said of weights, None where that is nothing."""
    resizing = [f"resize images with {interpolation} interpolation, asq with bilinear"]
    differences = [*(resizing if interpolation != "bilinear" else []), *others]
    return f"note: {weights} {'; '.join(differences)}" if differences else None


def official_class_names(name: str) -> tuple[str, ...] | None:
    """Return the names of the classes that the official weights of `name` are for, None where nobody says them."""
    if is_timm(name):
        return timm_networks.class_names(name)
    weights = official_weights(name)
    return tuple(weights.meta["categories"]) if weights is not None and "categories" in weights.meta else None


def has_official(name: str) -> bool:
    """Are there official weights of a known model?"""
    return timm_networks.has_weights(name) if is_timm(name) else official_weights(name) is not None


def require_official(name: str) -> None:
    """Find out whether there are official weights for a known model.

    Raises:
        UsageError: there are none.
    """
    if not has_official(name):
        own = ", or say `--weights factory` if the factory loads its own" if is_factory(name) else ""
        raise UsageError(f"`{name}` has no official weights", f"name a file or a run with --weights{own}")


def fetch_official(name: str) -> tuple[Mapping[str, Tensor], str]:
    """Return (state dict, its name) of the official weights of a known model, from a cache or the network.

    Raises:
        MachineError: there are none, downloads are forbidden (`ASQ_OFFLINE=1`), or the download failed.
    """
    if not has_official(name):
        raise MachineError(f"there are no official weights for `{name}`")
    is_cached, fetch = (timm_networks.is_cached, timm_networks.fetch) if is_timm(name) else (_is_cached, _fetch)
    if os.environ.get("ASQ_OFFLINE") == "1" and not is_cached(name):
        raise MachineError(f"the official weights of `{name}` are not in the cache and ASQ_OFFLINE forbids downloads")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        state, title = fetch(name)
    except Exception as error:  # urllib, ssl, socket and hash errors have no common type
        raise MachineError(f"the official weights of `{name}` cannot be had: {first_line(error)}") from error
    finally:
        socket.setdefaulttimeout(before)
    return state, title


def _is_cached(name: str) -> bool:
    weights = official_weights(name)
    assert weights is not None
    return (Path(torch.hub.get_dir()) / "checkpoints" / _file_name(weights)).is_file()


def _fetch(name: str) -> tuple[Mapping[str, Tensor], str]:
    weights = official_weights(name)
    assert weights is not None
    state = cast("object", weights.get_state_dict(check_hash=True, progress=False))
    if not isinstance(state, Mapping):
        raise TypeError("their file holds no state dict")
    return as_official(name, state), f"torchvision {weights}"


def as_official(name: str, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the state in an official file with what torchvision's builder sets besides, where it sets something."""
    from asqcli.models.input_transform import NETWORKS, TRANSFORMED

    return with_versions({**state, EXTRA: TRANSFORMED}, versions_in(state)) if name in NETWORKS else state
