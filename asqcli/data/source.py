"""A data set's name or folder to its splits.

A folder holds one folder per class, or `train/`, `val/` and `test/` that do. `val/` is for watching, `test/` for the
result; with one of them it is the result; with neither, a fixed tenth of the training images is held out for it.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from asqcli import images
from asqcli.data.digits import CLASSES, load_digits
from asqcli.data.layout import CIFAR_FOLDERS, NAMES, data_kind, list_images, split_folders
from asqcli.data.splits import FileSplit, MemorySplit, Preprocessing, Split
from asqcli.errors import InputError, UsageError
from asqcli.seeds import generator

MEMORY_LIMIT_BYTES = 2**31
HELD_OUT_SHARE = 10
SHOWN_FILES = 5


@dataclass(frozen=True)
class ImageData:
    """A data set, read.

    Attributes:
        classes: names, in label order.
        train: None when it was not asked for, or a folder has only images to test on.
        result: the images that reported accuracies are measured on.
        watch: a separate validation split, where there is one.
        result_name: how to call `result` in text.
    """

    classes: tuple[str, ...]
    train: Split | None
    result: Split
    watch: Split | None
    result_name: str


def open_data(name: str, preprocessing: Preprocessing, *, workers: int, with_train: bool = True) -> ImageData:
    """Read a data set.

    Args:
        name: digits, cifar10, cifar100, or a folder.
        workers: processes that decode images which do not fit in memory.
        with_train: read the training and validation splits too; for a plain evaluation they are not needed.
    Raises:
        InputError: missing, empty or unreadable images, classes that differ between the splits.
        UsageError: `resized_crop` for images that come without files.
    """
    kind = data_kind(name)
    if kind == "folder":
        return _open_folder(Path(name), preprocessing, workers, with_train)
    if preprocessing.augment == "resized_crop":
        raise UsageError(
            f"`data.augment` is resized_crop, which works on image folders, not on {kind}",
            "choose none, shift or shift_flip",
        )
    classes, train, test = (CLASSES, *load_digits()) if kind == "digits" else _read_cifar(kind, name)
    return ImageData(
        classes=classes,
        train=_from_arrays(*train, preprocessing),
        result=_from_arrays(*test, preprocessing),
        watch=None,
        result_name=f"{len(test[1]):,} test images of {kind}",
    )


def _from_arrays(pixels: np.ndarray, labels: np.ndarray, preprocessing: Preprocessing) -> MemorySplit:
    """Pixels: (N, H, W, 3) uint8."""
    resize, size = preprocessing.resize, preprocessing.image_size
    if pixels.shape[1:3] != (size, size) or resize != size:
        pixels = np.stack([images.resize_and_crop(Image.fromarray(p), resize=resize, size=size) for p in pixels])
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return MemorySplit(tensor, torch.as_tensor(labels, dtype=torch.int64), preprocessing)


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
            f"{kind} cannot be read from `{root}`: {str(error).splitlines()[0]}",
            f"unpack its python version there, or pass the folder that holds `{CIFAR_FOLDERS[kind]}` with --data",
        ) from error
    return tuple(train.classes), (train.data, np.array(train.targets)), (test.data, np.array(test.targets))


def _open_folder(folder: Path, preprocessing: Preprocessing, workers: int, with_train: bool) -> ImageData:
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
        result_name = f"{len(test):,} images of `{folders['test']}`"
    elif val is not None:
        test, val, result_name = val, None, f"{len(val):,} images of `{folders['val']}`"
    else:
        train, test = _hold_out(train, folder)
        result_name = f"{len(test):,} held-out images, a tenth of `{folders['train']}`"

    def read(samples: list[tuple[Path, int]] | None, wanted: bool = True) -> Split | None:
        return _read_split(samples, preprocessing, workers) if wanted and samples is not None else None

    return ImageData(classes, read(train, with_train), read(test), read(val, with_train), result_name)


def _hold_out(samples: list[tuple[Path, int]], folder: Path) -> tuple[list, list]:
    """Return (training samples, held-out samples): the same tenth for every run."""
    order = torch.randperm(len(samples), generator=generator(0)).tolist()
    count = max(1, len(samples) // HELD_OUT_SHARE)
    if count == len(samples):
        raise InputError(f"`{folder}` has one image, too few to hold some out")
    return [samples[i] for i in sorted(order[count:])], [samples[i] for i in sorted(order[:count])]


def _read_split(samples: list[tuple[Path, int]], preprocessing: Preprocessing, workers: int) -> Split:
    paths = tuple(path for path, _ in samples)
    labels = torch.tensor([label for _, label in samples])
    in_memory = len(paths) * 3 * preprocessing.image_size**2 <= MEMORY_LIMIT_BYTES
    if preprocessing.augment == "resized_crop" or not in_memory:
        return FileSplit(paths, labels, preprocessing, workers)

    def decode(path: Path) -> np.ndarray | InputError:
        try:
            return preprocessing.evaluation_pixels(path)
        except InputError as error:
            return error

    with ThreadPoolExecutor(max(1, workers)) as pool:
        decoded = list(pool.map(decode, paths, chunksize=64))
    failures = [d for d in decoded if isinstance(d, InputError)]
    if failures:
        shown = "; ".join(f.message for f in failures[:SHOWN_FILES])
        count = f"{len(failures)} of {len(paths)} images fail: " if len(failures) > 1 else ""
        raise InputError(count + shown + (", .." if len(failures) > SHOWN_FILES else ""), failures[0].hint)
    pixels = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()
    return MemorySplit(pixels, labels, preprocessing)
