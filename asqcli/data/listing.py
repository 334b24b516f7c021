"""The images of a split, by path, and those among them that are one file under several names."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from asqcli.data.folders import counted
from asqcli.data.paths import Paths


@dataclass
class Listing:
    """The images of one split, class by class.

    Attributes:
        folder: the path of the folder that holds the class folders.
        paths: of each image.
        labels: (N,) int64, indices into the classes.
        inodes: (N,) uint64.
    """

    folder: str
    paths: Paths
    labels: np.ndarray
    inodes: np.ndarray

    def keep(self, kept: np.ndarray) -> None:
        """Leave out the images that are not `kept`, (N,) bool."""
        self.paths, self.labels, self.inodes = self.paths.take(kept), self.labels[kept], self.inodes[kept]


def count_once(splits: dict[str, Listing], root: str, *, within: str = "class") -> list[str]:
    """Leave out images that are in a class already, under another name; return what is to be told, a line each.

    Equal inodes are a hint that costs nothing; the files themselves are looked at only then.

    Args:
        within: what a class is called: where nothing is labelled, all images of a split are of one.
    """
    order = list(splits)
    starts = np.cumsum([0, *(len(listing.paths) for listing in splits.values())])
    inodes = np.concatenate([listing.inodes for listing in splits.values()])
    in_order = np.sort(inodes)
    files = defaultdict(list)
    for position in np.flatnonzero(np.isin(inodes, in_order[1:][in_order[1:] == in_order[:-1]])):
        number = int(np.searchsorted(starts, position, side="right")) - 1
        split, index = order[number], int(position - starts[number])
        with suppress(OSError):  # gone by now: told when it is read
            found = os.stat(splits[split].paths[index])
            files[found.st_dev, found.st_ino].append((split, index))
    kept = {split: np.ones(len(listing.paths), bool) for split, listing in splits.items()}
    again, in_classes, in_splits = [], [], []
    for same in files.values():
        homes = {}
        for split, index in same:
            path, home = splits[split].paths[index], (split, int(splits[split].labels[index]))
            if home in homes:
                kept[split][index] = False
                again.append(path)
            homes.setdefault(home, path)
        first = next(iter(homes.values()))
        in_classes += [first] if len({label for _, label in homes}) > 1 else []
        in_splits += [first] if len({split for split, _ in homes}) > 1 else []
    for split, listing in splits.items():
        if not kept[split].all():
            listing.keep(kept[split])
    told = {
        f"counted once, images with several names in their {within}": again,
        "warning: the same file is in several classes": in_classes,
        "warning: the same file is in several splits": in_splits,
    }
    return [f"{what}: {counted(paths, root)}" for what, paths in told.items() if paths]
