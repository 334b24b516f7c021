"""A data set's name or folder to its images and labels, without torch: shared by training and the integer engine.

Of a folder's splits (`image_folder`), `val` is for watching, `test` for the result; with one of them it is the result;
with neither, a fixed tenth of the training images is held out for it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from asqcli.data.class_names import are_numbers, numbers_among
from asqcli.data.digits import CLASSES, load_digits
from asqcli.data.image_folder import ImageFolder, read_image_folder
from asqcli.data.layout import CIFAR_FOLDERS, NAMES, data_kind
from asqcli.data.listing import Listing
from asqcli.data.paths import Paths
from asqcli.data.split_folders import SPLITS
from asqcli.data.unlabelled import read_unlabelled_folder
from asqcli.errors import InputError, first_line, quoted, some_of

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

    def relabelled(self, labels: np.ndarray) -> ArraySamples:
        """Return the same images with other labels."""
        return replace(self, labels=labels)


@dataclass(frozen=True)
class FileSamples:
    """Image files and labels, (N,) int64."""

    paths: Paths
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def spread(self, count: int) -> FileSamples:
        """Return `count` of them, evenly spread, or all."""
        chosen = spread(len(self), count)
        return FileSamples(self.paths.take(chosen), self.labels[chosen])

    def relabelled(self, labels: np.ndarray) -> FileSamples:
        """Return the same images with other labels."""
        return replace(self, labels=labels)


def spread(length: int, count: int) -> np.ndarray:
    """Return `count` of the first `length` whole numbers, evenly spread, or all."""
    return np.arange(min(count, length)) * length // min(count, length)


Samples = ArraySamples | FileSamples


Pixels = tuple[np.ndarray, np.ndarray]  # images and labels
Part = TypeVar("Part", covariant=True)
Own = TypeVar("Own")


@dataclass(frozen=True)
class DataSet(Generic[Part]):
    """A data set and its parts: samples as they are found, or splits that give batches.

    Attributes:
        classes: names, in label order; none where nothing is labelled.
        train: None when a folder has only images to test on, or it was not asked for.
        result: what reported accuracies are measured on.
        watch: a separate validation split, where there is one.
        result_name: how to call `result` in text.
        notes: what a user should know of how a folder was read, a line each.
    """

    classes: tuple[str, ...]
    train: Part | None
    result: Part
    watch: Part | None
    result_name: str
    notes: tuple[str, ...] = ()

    @property
    def training(self) -> Part:
        """What to train on, of a data set that has it."""
        assert self.train is not None
        return self.train


def relabelled(data: DataSet[Own], label: Callable[[Own], Own], classes: tuple[str, ...]) -> DataSet[Own]:
    """Return the same images with other labels, which count `classes`. `label`: returns a part with them."""
    train, watch = (None if part is None else label(part) for part in (data.train, data.watch))
    return replace(data, classes=classes, train=train, result=label(data.result), watch=watch)


def find_samples(name: str, *, labelled: bool = True, classes: tuple[str, ...] | None = None) -> DataSet[Samples]:
    """Return what the data set `name` holds: digits, cifar10, cifar100, or a folder.

    Args:
        labelled: False for the images alone, all labelled 0; any folders of images will do then.
        classes: those of a network, to label the images by. The data set's must be among them, and need not be all.
    Raises:
        InputError: corrupt CIFAR files, other classes, or as `read_image_folder` and `read_unlabelled_folder`.
    """
    kind = data_kind(name)
    if kind == "folder":
        folder = str(Path(name))
        found = _folder_samples(read_image_folder(folder) if labelled else read_unlabelled_folder(folder))
    else:
        found = _own_samples(kind, name)
        if not labelled:
            found = relabelled(found, lambda part: part.relabelled(np.zeros_like(part.labels)), ())
    return found if classes is None else _in_classes(found, classes, name)


def _in_classes(found: DataSet[Samples], classes: tuple[str, ...], name: str) -> DataSet[Samples]:
    """Return the same images, labelled by the `classes` of a network."""
    if found.classes == classes:
        return found
    numbers = numbers_among(found.classes, classes)
    if numbers is None:
        others = [quoted(other) for other in found.classes if other not in classes]
        own = some_of([quoted(one) for one in classes])
        numbered = f"its classes are numbered: name the folders {own}, or `asq eval --classes FILE` names them"
        raise InputError(
            f"the classes in {quoted(name)} are not those of the network: it has no {some_of(others)}",
            numbered if are_numbers(classes) else f"its {len(classes):,} classes are {own}",
        )
    labelled = relabelled(found, lambda part: part.relabelled(numbers[part.labels]), classes)
    if len(found.classes) == len(classes):
        return labelled
    return replace(labelled, notes=(*found.notes, f"it has {len(numbers):,} of the network's {len(classes):,} classes"))


def _own_samples(kind: str, name: str) -> DataSet[Samples]:
    classes, train, test = (CLASSES, *load_digits()) if kind == "digits" else _read_cifar(kind, name)
    return DataSet(
        classes=classes,
        train=ArraySamples(*train),
        result=ArraySamples(*test),
        watch=None,
        result_name=f"{len(test[1]):,} test images of {kind}",
    )


def _read_cifar(kind: str, name: str) -> tuple[tuple[str, ...], Pixels, Pixels]:
    from torchvision.datasets import CIFAR10, CIFAR100

    by_name = name in NAMES
    root = Path(os.environ.get("ASQ_DATA", Path.home() / ".cache" / "asqcli")) if by_name else Path(name)
    read = CIFAR10 if kind == "cifar10" else CIFAR100
    download = by_name and os.environ.get("ASQ_OFFLINE") != "1"
    try:
        # Files in torchvision's layout are pickles; torchvision compares their MD5 with the published ones before it
        # reads.
        train, test = (read(root, train=t, download=download) for t in (True, False))
    except Exception as error:  # missing, corrupt, or one of the many ways in which a download fails
        if by_name and not download and not (root / CIFAR_FOLDERS[kind]).is_dir():
            raise InputError(
                f"{kind} is not in `{root}`, and ASQ_OFFLINE=1 forbids downloads",
                f"pass the folder that holds `{CIFAR_FOLDERS[kind]}` with --data, or name it by ASQ_DATA",
            ) from error
        raise InputError(
            f"{kind} cannot be read from `{root}`: {first_line(error)}",
            f"unpack its python version there, or pass the folder that holds `{CIFAR_FOLDERS[kind]}` with --data",
        ) from error
    return tuple(train.classes), (train.data, np.array(train.targets)), (test.data, np.array(test.targets))


def _folder_samples(found: ImageFolder) -> DataSet[Samples]:
    train, val, test = (found.splits.get(split) for split in SPLITS)
    if test is None and val is not None:
        test, val = val, None
    if test is not None:
        result_name = f"{_count(test.labels)} of {quoted(test.folder)}"
        parts = None if train is None else _files(train), _files(test), None if val is None else _files(val)
        return DataSet(found.classes, *parts, result_name, found.notes)
    assert train is not None  # a folder without images is refused
    rest, held_out = _hold_out(train)
    result_name = f"{_count(held_out.labels, 'held-out ')}, a tenth of {quoted(train.folder)}"
    return DataSet(found.classes, rest, held_out, None, result_name, found.notes)


def _count(labels: np.ndarray, kind: str = "") -> str:
    return f"{len(labels):,} {kind}image{'' if len(labels) == 1 else 's'}"


def _files(listing: Listing) -> FileSamples:
    return FileSamples(listing.paths, listing.labels)


def _hold_out(train: Listing) -> tuple[FileSamples, FileSamples]:
    """Return (training samples, held-out samples): the same tenth for every run, by the names of the files alone."""
    count = max(1, len(train.paths) // HELD_OUT_SHARE)
    if count == len(train.paths):
        raise InputError(f"{quoted(train.folder)} has one image, too few to hold some out")

    def lot(path: str) -> bytes:
        name = path.removeprefix(around).replace(os.sep, "/")
        return hashlib.sha256(name.encode(errors="surrogateescape")).digest()

    around = os.path.join(train.folder, "")
    lots = np.frombuffer(b"".join(map(lot, train.paths)), "S32")
    drawn = np.zeros(len(train.paths), bool)
    drawn[lots.argsort(kind="stable")[:count]] = True

    def part(chosen: np.ndarray) -> FileSamples:
        return FileSamples(train.paths.take(chosen), train.labels[chosen])

    return part(~drawn), part(drawn)
