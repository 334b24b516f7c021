"""A data set's name or folder to its splits, ready to give batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from asqcli import images
from asqcli.data.decoders import Decoders
from asqcli.data.layout import data_kind
from asqcli.data.preprocessing import Preprocessing
from asqcli.data.samples import ArraySamples, DataSet, FileSamples, Samples, find_samples
from asqcli.data.splits import FileSplit, MemorySplit, Split
from asqcli.errors import InputError, UsageError, some_of

MEMORY_LIMIT_BYTES = 2**31


def open_data(
    name: str,
    preprocessing: Preprocessing,
    *,
    workers: int,
    with_train: bool = True,
    labelled: bool = True,
    classes: tuple[str, ...] | None = None,
) -> DataSet[Split]:
    """Read a data set.

    Args:
        name: digits, cifar10, cifar100, or a folder.
        workers: processes that decode images which do not fit in memory.
        with_train: read the training and validation splits too; for a plain evaluation they are not needed.
        labelled, classes: as of `find_samples`.
    Raises:
        InputError: missing, empty or unreadable images, classes that differ between the splits or from `classes`.
        UsageError: `resized_crop` for images that come without files.
    """
    if preprocessing.augment == "resized_crop" and (kind := data_kind(name)) != "folder":
        raise UsageError(
            f"`data.augment` is resized_crop, which works on image folders, not on {kind}",
            "choose none, shift or shift_flip",
        )
    found = find_samples(name, labelled=labelled, classes=classes)
    decoders = Decoders(preprocessing, workers)

    def read(samples: Samples) -> Split:
        if isinstance(samples, ArraySamples):
            return _from_arrays(samples, preprocessing)
        return _from_files(samples, preprocessing, decoders)

    return DataSet(
        classes=found.classes,
        train=read(found.train) if with_train and found.train is not None else None,
        result=read(found.result),
        watch=read(found.watch) if with_train and found.watch is not None else None,
        result_name=found.result_name,
        notes=found.notes,
    )


def _from_arrays(samples: ArraySamples, preprocessing: Preprocessing) -> MemorySplit:
    pixels = images.fit(samples.pixels, resize=preprocessing.resize, size=preprocessing.image_size)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return MemorySplit(tensor, torch.as_tensor(samples.labels, dtype=torch.int64), preprocessing)


def _from_files(samples: FileSamples, preprocessing: Preprocessing, decoders: Decoders) -> Split:
    paths, labels = samples.paths, torch.from_numpy(samples.labels)
    in_memory = len(paths) * 3 * preprocessing.image_size**2 <= MEMORY_LIMIT_BYTES
    if preprocessing.augment == "resized_crop" or not in_memory:
        decoders.start()
        return FileSplit(paths, labels, preprocessing, decoders)

    def decode(path: str) -> np.ndarray | InputError:
        try:
            return preprocessing.evaluation_pixels(path)
        except InputError as error:
            return error

    with ThreadPoolExecutor(max(1, decoders.workers)) as pool:
        decoded = list(pool.map(decode, paths, chunksize=64))
    failures = [d for d in decoded if isinstance(d, InputError)]
    if failures:
        count = f"{len(failures)} of {len(paths)} images fail: " if len(failures) > 1 else ""
        raise InputError(count + some_of([f.message for f in failures]), failures[0].hint)
    stacked = np.stack([d for d in decoded if isinstance(d, np.ndarray)])
    pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()
    return MemorySplit(pixels, labels, preprocessing)
