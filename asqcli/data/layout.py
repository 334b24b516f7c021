"""What lies where: names and folders of data sets, their kind and classes. No pixels are read here, and no torch.

A folder holds one folder per class, or `train/`, `val/` and `test/` that do.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from asqcli.errors import InputError, did_you_mean
from asqcli.images import EXTENSIONS

NAMES = ("digits", "cifar10", "cifar100")
CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
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


def data_traits(name: str) -> DataTraits:
    """Return what the data set is like, reading no more than some image headers.

    Raises:
        InputError: no such data set or folder, or no images in it.
    """
    kind = data_kind(name)
    if kind == "digits":
        return DataTraits("digits", 16)
    if kind in CIFAR_FOLDERS:
        return DataTraits("cifar", 32)
    side = _typical_side(split_folders(Path(name)))
    if side > SMALL_SIDE:
        return DataTraits("large", 224)
    return DataTraits("small", max(16, -(-side // 8) * 8))  # a multiple of 8, not below the images


def data_kind(name: str) -> str:
    """Return digits, cifar10, cifar100 or folder.

    Raises:
        InputError: no such data set or folder.
    """
    if name in NAMES:
        return name
    folder = Path(name)
    if not folder.is_dir():
        raise InputError(
            f"no data set or folder `{name}`",
            did_you_mean(name, NAMES) or f"choose {', '.join(NAMES)} or a folder with one folder of images per class",
        )
    return next((kind for kind, inner in CIFAR_FOLDERS.items() if (folder / inner).is_dir()), "folder")


def split_folders(folder: Path) -> dict[str, Path]:
    """Return which folder holds each split: of train, val and test those that exist, or the folder itself as train."""
    found = {
        split: next((folder / n for n in names if (folder / n).is_dir()), None)
        for split, names in SPLIT_FOLDERS.items()
    }
    return {split: path for split, path in found.items() if path is not None} or {"train": folder}


def list_images(folder: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Return (class names, (path, label) of each image), both sorted."""
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not classes:
        raise InputError(f"no images in `{folder}`", "an image folder holds one folder per class, named as the class")
    if len(classes) == 1:
        raise InputError(f"`{folder}` has one class, `{classes[0]}`; a classifier needs two or more")
    samples = []
    for label, name in enumerate(classes):
        files = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in EXTENSIONS)
        if not files:
            raise InputError(f"the class folder `{folder / name}` has no images", "remove it or put images into it")
        samples += [(path, label) for path in files]
    return classes, samples


def _typical_side(folders: dict[str, Path]) -> int:
    """Return the median of the shorter side over some images, pixels."""
    _, samples = list_images(next(iter(folders.values())))
    sides = []
    for path, _ in samples[:: max(1, len(samples) // SAMPLED_IMAGES)]:
        try:
            with Image.open(path) as image:
                sides.append(min(image.size))
        except (OSError, Image.DecompressionBombError):
            continue  # an unreadable image is named when the data set is read
    return int(statistics.median(sides)) if sides else SMALL_SIDE
