"""The paths of very many files, held in few bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

CHUNK = 4096  # paths whose places are Python's numbers, which it slices by faster, at a time


class Paths(Sequence[str]):
    """Paths of files, read like a tuple of text.

    A file takes its name and 13 bytes, in a handful of arrays. As text, a million paths take thrice as much, and each
    is an object whose count of references moves when it is looked at: processes that share them copy them page by page.

    Args:
        folders: that the files lie in, as what comes before a name.
        names: of the files, each followed by a zero, the one byte that none has; UTF-8, and bytes that are none.
        starts: (N,) int64, where each name begins in `names`.
        homes: (N,) int32, index of each one's folder.
    """

    def __init__(self, folders: tuple[str, ...], names: bytes, starts: np.ndarray, homes: np.ndarray) -> None:
        self._folders, self._names, self._starts, self._homes = folders, names, starts, homes

    @classmethod
    def in_folder(cls, folder: str, names: Sequence[str]) -> Paths:
        """Return the paths of these names in one folder.

        >>> list(Paths.in_folder("photos", ["a.png", "b.png"]))
        ['photos/a.png', 'photos/b.png']
        """
        encoded = "\0".join([*names, ""]).encode(errors="surrogateescape")
        ends = np.flatnonzero(np.frombuffer(encoded, np.uint8) == 0) + 1
        starts = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
        return cls((os.path.join(folder, ""),), encoded, starts, np.zeros(len(names), np.int32))

    @classmethod
    def joined(cls, parts: Sequence[Paths]) -> Paths:
        """Return all paths of several, in order."""
        starts, homes, names, folders = [np.empty(0, np.int64)], [np.empty(0, np.int32)], 0, 0
        for part in parts:
            starts.append(part._starts + names)
            homes.append(part._homes + np.int32(folders))
            names, folders = names + len(part._names), folders + len(part._folders)
        return cls(
            tuple(folder for part in parts for folder in part._folders),
            b"".join(part._names for part in parts),
            np.concatenate(starts),
            np.concatenate(homes),
        )

    def take(self, chosen: np.ndarray | slice) -> Paths:
        """Return some of the paths. `chosen`: indices, (N,) bool, or a slice."""
        return Paths(self._folders, self._names, self._starts[chosen], self._homes[chosen])

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Paths: ...
    def __getitem__(self, index: int | slice) -> str | Paths:
        if isinstance(index, slice):
            return self.take(index)
        return self._path(self._starts[index], self._homes[index])

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), CHUNK):
            chunk = slice(first, first + CHUNK)
            yield from map(self._path, self._starts[chunk].tolist(), self._homes[chunk].tolist())

    def _path(self, start: int, home: int) -> str:
        name = self._names[start : self._names.index(b"\0", start)]
        return self._folders[home] + name.decode(errors="surrogateescape")
