"""What lies in a folder of images, read with one look at each folder and none at the files.

Links are followed, to files and to folders. What nobody means (hidden files, folders that an operating system or an
editor leaves) is passed over, and kept in mind to be told.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from asqcli.data.paths import Paths
from asqcli.errors import InputError, printable, quoted, some_of
from asqcli.images import EXTENSIONS

IMAGE_ENDINGS = frozenset(EXTENSIONS)

LEFT_BY_SYSTEMS = frozenset(
    {
        "__macosx", "__pycache__", "@eadir", "lost+found", "$recycle.bin", "system volume information",
        "thumbs.db", "ehthumbs.db", "desktop.ini",
    }
)  # fmt: skip
INODE_BITS = 2**64 - 1


@dataclass(frozen=True)
class Contents:
    """What lies in one folder itself; all but the numbers sorted by name.

    Attributes:
        images: files with an image's ending.
        inodes: of the images, (N,) uint64: equal ones may be the same file.
        folders: by name.
        hidden: what is passed over without a look.
        others: how many files of each other ending there are.
        broken: links to nothing.
    """

    images: Paths
    inodes: np.ndarray
    folders: dict[str, Folder]
    hidden: tuple[str, ...]
    others: Counter[str]
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Folder:
    """A folder, read when it is first asked for.

    Attributes:
        path: as the user would write it.
        real: without links: folders that are reached by several ways have the same.
    """

    path: str
    real: str

    @classmethod
    def at(cls, path: str) -> Folder:
        return cls(path, os.path.realpath(path))

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def __truediv__(self, name: str) -> str:
        return os.path.join(self.path, name)

    @property
    def images(self) -> Paths:
        return self.contents.images

    @property
    def folders(self) -> dict[str, Folder]:
        return self.contents.folders

    @cached_property
    def contents(self) -> Contents:
        """What lies in it.

        Raises:
            InputError: it may not be read.
        """
        images: dict[str, int] = {}
        rest: list[os.DirEntry[str]] = []
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    name = entry.name
                    # There may be millions of plain image files, and little else: they are known here, at once.
                    if (
                        name[name.rfind(".") :].lower() in IMAGE_ENDINGS
                        and entry.is_file(follow_symlinks=False)
                        and name[0] != "."
                    ):
                        images[name] = entry.inode()
                    else:
                        rest.append(entry)
                return self._sort_out(images, rest)
        except OSError as error:
            raise InputError(f"the folder {quoted(self.path)} cannot be read: {error.strerror}") from error

    def _sort_out(self, images: dict[str, int], rest: Iterable[os.DirEntry[str]]) -> Contents:
        """Return what lies in it. `images`: inodes of plain image files, by name; `rest`: entries of all else."""
        folders: dict[str, Folder] = {}
        hidden, broken, others = [], [], Counter()
        for entry in rest:
            name = entry.name
            if name.startswith(".") or name.casefold() in LEFT_BY_SYSTEMS:
                hidden.append(name)
                continue
            kind = _kind(entry)
            ending = os.path.splitext(name)[1].lower()
            if kind == "broken":
                broken.append(name)
            elif kind == "folder":
                folders[name] = Folder(self / name, _real_path(self, entry))
            elif kind == "file" and ending in IMAGE_ENDINGS:
                images[name] = entry.stat().st_ino
            else:
                others[ending if kind == "file" else "devices and pipes"] += 1
        names = sorted(images)
        inodes = np.array([images[name] & INODE_BITS for name in names], np.uint64)
        return Contents(
            Paths.in_folder(self.path, names),
            inodes,
            dict(sorted(folders.items())),
            tuple(sorted(hidden)),
            others,
            tuple(sorted(broken)),
        )


def _kind(entry: os.DirEntry[str]) -> str:
    """Return folder, file, broken or special. Only links cost a look at what they lead to."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:  # a link in a circle
        return "broken"
    return "broken" if entry.is_symlink() else "special"


def _real_path(parent: Folder, entry: os.DirEntry[str]) -> str:
    return os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(parent.real, entry.name)


@dataclass
class Walk:
    """All images in a folder and below: those of a folder, then those of its folders, each sorted by name.

    Attributes:
        visited: the folders, in that order.
        repeated: paths of links to folders that are read already, passed over.
    """

    visited: list[Folder] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    @cached_property
    def paths(self) -> Paths:
        """Paths of the images."""
        return Paths.joined([folder.images for folder in self.visited])

    @property
    def inodes(self) -> np.ndarray:
        """Inodes of the images, (N,) uint64."""
        return np.concatenate([folder.contents.inodes for folder in self.visited])


def walk(top: Folder, above: Iterable[Folder] = ()) -> Walk:
    """List the images in a folder and below. `above`: folders that links may not lead back to."""
    found = Walk()
    found.visited += _below(top, above, found.repeated)
    return found


def has_images(top: Folder, above: Iterable[Folder] = ()) -> bool:
    """Is there an image in the folder or below? Reads no further than to the first."""
    return any(folder.images for folder in _below(top, above, []))


def _below(top: Folder, above: Iterable[Folder], repeated: list[str]) -> Iterator[Folder]:
    """Yield the folder and all below it, each once, however many links lead to it and wherever they lead."""
    seen = {folder.real for folder in above}
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        if folder.real in seen:
            repeated.append(folder.path)
            continue
        seen.add(folder.real)
        yield folder
        waiting.extend(reversed(folder.folders.values()))


def require_whole_links(folders: Iterable[Folder]) -> None:
    """Refuse links to nothing: whole folders of images could be missing behind them.

    Raises:
        InputError: there are some; names them.
    """
    broken = [quoted(folder / name) for folder in folders for name in folder.contents.broken]
    if broken:
        count = f"{len(broken)} links lead" if len(broken) > 1 else "a link leads"
        raise InputError(f"{count} to nothing: {some_of(broken)}", "mend or remove what is broken")


def passed_over(folders: Sequence[Folder], root: str) -> list[str]:
    """Return what was passed over in these folders, a line for each kind; paths as seen from `root`."""
    hidden = [folder / name for folder in folders for name in folder.contents.hidden]
    notes = []
    if hidden:
        notes.append(f"passed over, hidden or left by a system: {counted(hidden, root)}")
    if others := endings(folders):
        notes.append(f"passed over, no images by their ending: {others}")
    return notes


def endings(folders: Iterable[Folder]) -> str:
    """Return how many files of which endings lie in the folders beside images, such as "12 .txt; 1 .gif"."""
    others = sum((folder.contents.others for folder in folders), Counter())
    return some_of([f"{count:,} {printable(ending) or 'without one'}" for ending, count in others.most_common()])


def counted(paths: Sequence[str], root: str) -> str:
    """Return how many there are and the first of them, as seen from `root`, for a message.

    >>> counted(["photos/cat/.a", "photos/cat/.b"], "photos")
    '2, such as `cat/.a`'
    >>> counted(["photos/cat/.a"], "photos")
    '`cat/.a`'
    """
    first = quoted(relative(paths[0], root))
    return f"{len(paths):,}, such as {first}" if len(paths) > 1 else first


def relative(path: str, root: str) -> str:
    """Return a path below `root` without it."""
    return path.removeprefix(os.path.join(root, ""))
