"""A data set's name or folder to its images and labels, without torch: shared by training and the integer engine.

A folder holds one folder per class, or `train/`, `val/` and `test/` that do. `val/` is for watching, `test/` for the
result; with one of them it is the result; with neither, a fixed tenth of the training images is held out for it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from asqcli.data.digits import CLASSES, load_digits
from asqcli.data.layout import CIFAR_FOLDERS, NAMES, data_kind, list_images, split_folders
from asqcli.errors import InputError, first_line

HELD_OUT_SHARE = 10


@dataclass(frozen=True)
class ArraySamples:
    """Decoded images, (N, H, W, 3) uint8, and labels, (N,) int64."""

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def spread(self, count: int) -> ArraySamples:
        """Return `count` of them, evenly spread, or all."""
        chosen = spread(len(self), count)
        return ArraySamples(self.pixels[chosen], self.labels[chosen])


@dataclass(frozen=True)
class FileSamples:
    """Image files and labels, (N,) int64."""

    paths: tuple[Path, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def spread(self, count: int) -> FileSamples:
        """Return `count` of them, evenly spread, or all."""
        chosen = spread(len(self), count)
        return FileSamples(tuple(self.paths[i] for i in chosen), self.labels[chosen])


def spread(length: int, count: int) -> np.ndarray:
    """Return `count` of the first `length` whole numbers, evenly spread, or all."""
    return np.arange(min(count, length)) * length // min(count, length)


Samples = ArraySamples | FileSamples


Part = TypeVar("Part")


@dataclass(frozen=True)
class DataSet(Generic[Part]):
    """A data set and its parts: samples as they are found, or splits that give batches.

    Attributes:
        classes: names, in label order.
        train: None when a folder has only images to test on, or it was not asked for.
        result: what reported accuracies are measured on.
        watch: a separate validation split, where there is one.
        result_name: how to call `result` in text.
    """

    classes: tuple[str, ...]
    train: Part | None
    result: Part
    watch: Part | None
    result_name: str


def find_samples(name: str) -> DataSet[Samples]:
    """Return what the data set `name` holds: digits, cifar10, cifar100, or a folder.

    Raises:
        InputError: missing or empty, corrupt CIFAR files, classes that differ between the splits.
    """
    kind = data_kind(name)
    if kind == "folder":
        return _folder_samples(Path(name))
    classes, train, test = (CLASSES, *load_digits()) if kind == "digits" else _read_cifar(kind, name)
    return DataSet(
        classes=classes,
        train=ArraySamples(*train),
        result=ArraySamples(*test),
        watch=None,
        result_name=f"{len(test[1]):,} test images of {kind}",
    )


def _read_cifar(kind: str, name: str):
    from torchvision.datasets import CIFAR10, CIFAR100

    by_name = name in NAMES
    root = Path(os.environ.get("ASQ_DATA", Path.home() / ".cache" / "asqcli")) if by_name else Path(name)
    read = CIFAR10 if kind == "cifar10" else CIFAR100
    try:
        # Files in torchvision's layout are pickles; torchvision compares their MD5 with the published ones before it
        # reads.
        download = by_name and os.environ.get("ASQ_OFFLINE") != "1"
        train, test = (read(root, train=t, download=download) for t in (True, False))
    except Exception as error:  # missing, corrupt, or one of the many ways in which a download fails
        raise InputError(
            f"{kind} cannot be read from `{root}`: {first_line(error)}",
            f"unpack its python version there, or pass the folder that holds `{CIFAR_FOLDERS[kind]}` with --data",
        ) from error
    return tuple(train.classes), (train.data, np.array(train.targets)), (test.data, np.array(test.targets))


def _folder_samples(folder: Path) -> DataSet[Samples]:
    folders = split_folders(folder)
    listed = {split: list_images(path) for split, path in folders.items()}
    classes = next(iter(listed.values()))[0]
    for split, (names, _) in listed.items():
        if names != classes:
            first = next(iter(folders.values()))
            lacks = [f"`{name}` is only in `{first}`" for name in classes if name not in names]
            lacks += [f"`{name}` is only in `{folders[split]}`" for name in names if name not in classes]
            raise InputError(f"the splits have other classes: {', '.join(lacks)}")
    train, val, test = (listed[s][1] if s in listed else None for s in ("train", "val", "test"))
    if test is not None:
        result_name = f"{_count(test)} of `{folders['test']}`"
    elif val is not None:
        test, val, result_name = val, None, f"{_count(val)} of `{folders['val']}`"
    else:
        train, test = _hold_out(train, folders["train"])
        result_name = f"{_count(test, 'held-out ')}, a tenth of `{folders['train']}`"
    return DataSet(classes, _files(train), _files(test), _files(val), result_name)


def _count(samples: list, kind: str = "") -> str:
    return f"{len(samples):,} {kind}image{'' if len(samples) == 1 else 's'}"


def _files(samples: list[tuple[Path, int]] | None) -> FileSamples | None:
    if samples is None:
        return None
    return FileSamples(tuple(path for path, _ in samples), np.array([label for _, label in samples], np.int64))


def _hold_out(samples: list[tuple[Path, int]], folder: Path) -> tuple[list, list]:
    """Return (training samples, held-out samples): the same tenth for every run, by the names of the files alone."""
    count = max(1, len(samples) // HELD_OUT_SHARE)
    if count == len(samples):
        raise InputError(f"`{folder}` has one image, too few to hold some out")
    drawn = sorted(samples, key=lambda s: hashlib.sha256(s[0].relative_to(folder).as_posix().encode()).digest())
    held_out = set(drawn[:count])
    return [s for s in samples if s not in held_out], [s for s in samples if s in held_out]
