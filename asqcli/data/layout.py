"""Names and folders of data sets, and what kind they are. No pixels are read here, and no torch."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from asqcli.data.image_folder import sample_paths
from asqcli.data.paths import Paths
from asqcli.data.unlabelled import sample_unlabelled_paths
from asqcli.errors import InputError, did_you_mean, quoted

NAMES = ("digits", "cifar10", "cifar100")
CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
SMALL_SIDE = 64  # images up to this many pixels are kept in memory and augmented by shifts
SAMPLED_IMAGES = 32


@dataclass(frozen=True)
class DataTraits:
    """What is known of a data set before it is read.

    Attributes:
        kind: digits, cifar, small (images up to 64 pixels) or large.
        image_size: a sensible input size, pixels.
    """

    kind: str
    image_size: int


def data_traits(name: str, labelled: bool = True) -> DataTraits:
    """Return what the data set is like, reading no more than some image headers.

    Args:
        labelled: False for a folder of images in any folders.
    Raises:
        InputError: no such data set or folder, or no images in it.
    """
    kind = data_kind(name)
    if kind == "digits":
        return DataTraits("digits", 16)
    if kind in CIFAR_FOLDERS:
        return DataTraits("cifar", 32)
    sample = sample_paths if labelled else sample_unlabelled_paths
    side = _typical_side(sample(str(Path(name)), SAMPLED_IMAGES))
    if side > SMALL_SIDE:
        return DataTraits("large", 224)
    return DataTraits("small", max(16, -(-side // 8) * 8))  # a multiple of 8, not below the images


def data_kind(name: str) -> str:
    """Return digits, cifar10, cifar100 or folder.

    Raises:
        InputError: no such data set or folder, or a folder's name that cannot be stored as text.
    """
    if name in NAMES:
        return name
    if not os.path.isdir(name):
        raise InputError(
            f"no data set or folder {quoted(name)}",
            did_you_mean(name, NAMES) or f"choose {', '.join(NAMES)} or a folder with one folder of images per class",
        )
    if name.encode(errors="replace").decode() != name:
        raise InputError(
            f"the folder {quoted(name)} has bytes that are not UTF-8 in its name",
            "rename it, or name a link to it: the name is stored as text in runs",
        )
    inside = (kind for kind, inner in CIFAR_FOLDERS.items() if os.path.isdir(os.path.join(name, inner)))
    return next(inside, "folder")


def _typical_side(paths: Paths) -> int:
    """Return the median of the shorter side over some images, pixels."""
    sides = []
    for path in paths:
        try:
            with Image.open(path) as image:
                sides.append(min(image.size))
        except Exception:  # an unreadable image is named when the data set is read
            continue
    return int(statistics.median(sides)) if sides else SMALL_SIDE
