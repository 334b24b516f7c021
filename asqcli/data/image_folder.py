"""A folder of images to its splits and classes.

It holds one folder per class, or a folder for each split that does, under one of the names that splits usually have
(`split_names`), or one folder around all that. What could be read in two ways is refused; what is passed over is told.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from asqcli.data.class_names import not_text
from asqcli.data.folders import Folder, Walk, counted, endings, has_images, passed_over, require_whole_links, walk
from asqcli.data.listing import Listing, count_once
from asqcli.data.paths import Paths
from asqcli.data.split_folders import SPLITS, folders_by_split, is_unlabelled, lone_folder, split_names_in
from asqcli.data.split_names import is_filler, read_split
from asqcli.errors import InputError, printable, quoted, some_of
from asqcli.images import EXTENSIONS


@dataclass(frozen=True)
class ImageFolder:
    """What a folder of images holds.

    Attributes:
        classes: names, in label order.
        splits: train, val and test, those that exist; images without splits are train.
        notes: what a user should know of how the folder was read, a line each.
    """

    classes: tuple[str, ...]
    splits: dict[str, Listing]
    notes: tuple[str, ...]


def read_image_folder(path: str) -> ImageFolder:
    """List the images in a folder.

    Raises:
        InputError: no images, one class, folders that cannot be told to be classes or splits, splits of other classes,
            class names that are no text, links to nothing, folders that may not be read.
    """
    reader = _Reader(Folder.at(path))
    named, splits = [], {}
    for split, folder in reader.find_splits().items():
        names = reader.find_classes(folder)
        named.append((names, folder.path))
        splits[split] = reader.list_classes(folder, names)
    return ImageFolder(_same_classes(named), splits, (*reader.notes(), *count_once(splits, path)))


def sample_paths(path: str, count: int) -> Paths:
    """Return about `count` images of one split, evenly spread; training images where there are some.

    Raises as `read_image_folder`, but for what lies in classes that it need not look into.
    """
    reader = _Reader(Folder.at(path))
    folder = next(iter(reader.find_splits().values()))
    names = reader.find_classes(folder)
    paths = reader.list_classes(folder, names[:: max(1, len(names) // count)]).paths
    return paths[:: max(1, len(paths) // count)]


@dataclass
class _Reader:
    """Reads one folder, and remembers what is to be told of it."""

    root: Folder
    above: list[Folder] = field(default_factory=list)  # folders around class folders: no link may lead back to them
    visited: list[Folder] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)  # links to folders that are read already
    beside: list[str] = field(default_factory=list)  # images that lie in no class folder
    below: list[str] = field(default_factory=list)  # folders in class folders
    alike: list[str] = field(default_factory=list)  # classes whose names have the word for a split in them
    told: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Return what is to be told, a line each."""
        root = self.root.path
        found = {
            "passed over, images that lie in no class folder": self.beside,
            "passed over, links to folders that are read already": self.repeated,
            "read as part of their class, folders in class folders": self.below,
            "taken for classes, not for splits": self.alike,
        }
        lines = [f"{what}: {counted(paths, root)}" for what, paths in found.items() if paths]
        return [*self.told, *passed_over([*self.above, *self.visited], root), *lines]

    def find_splits(self) -> dict[str, Folder]:
        """Return the folder that holds the class folders of each split, in the order of SPLITS."""
        around = self.root
        while not (names := split_names_in(around)):
            inner = lone_folder(around, self.above)
            if inner is None or not (split_names_in(inner) or self._says_no_class(inner, around)):
                return {"train": self._tell_wrapped(around, self.root)}
            self._enter(around)
            around = inner
        if around is not self.root:
            self.told.append(f"the splits are the folders in {quoted(around.path)}")
        self._enter(around)
        self._pass_over_siblings(around, list(names))
        found = folders_by_split(around, names)
        unusual = [f"{split} in {quoted(folder.name)}" for split, folder in found.items() if folder.name != split]
        if unusual:
            self.told.append(f"folders read as splits: {', '.join(unusual)}")
        return {split: self._unwrap(found[split]) for split in SPLITS if split in found}

    def _unwrap(self, outer: Folder) -> Folder:
        """Return the folder that holds the class folders of a split, as in `seg_train/seg_train`, `train/images`."""
        folder = outer
        while (inner := lone_folder(folder, self.above)) is not None and self._says_no_class(inner, folder):
            self._enter(folder)
            folder = inner
        return self._tell_wrapped(folder, outer)

    def _says_no_class(self, inner: Folder, outer: Folder) -> bool:
        """Is the only folder in another one more of the same, and not a class? Then it has class folders itself."""
        alike = inner.name.casefold() == outer.name.casefold() or is_filler(inner.name)
        return alike and any(has_images(f, [*self.above, outer, inner]) for f in inner.folders.values())

    def _tell_wrapped(self, folder: Folder, outer: Folder) -> Folder:
        if folder is not outer:
            self.told.append(f"the class folders are those in {quoted(folder.path)}")
        return folder

    def _enter(self, folder: Folder) -> None:
        require_whole_links([folder])
        self.above.append(folder)
        self.beside += folder.images

    def _pass_over_siblings(self, around: Folder, splits: Sequence[str]) -> None:
        """Tell of the folders beside the splits that are plainly no classes, and refuse others."""
        harmless, unclear = [], []
        for name, folder in around.folders.items():
            if name in splits:
                continue
            if not has_images(folder, self.above):
                harmless.append(f"{quoted(name)} (no images)")
            elif is_unlabelled(folder, self.above):
                harmless.append(f"{quoted(name)} (no classes)")
            elif split_names_in(folder):
                harmless.append(f"{quoted(name)} (splits of its own)")
            else:
                unclear.append(quoted(name))
        if unclear:
            raise InputError(
                f"{quoted(around.path)} has folders that are named as splits, {some_of([quoted(n) for n in splits])}, "
                f"beside others with images, {some_of(unclear)}",
                "put class folders into `train/` or `test/`, give a class that is named as a split another name, and "
                "move away what is neither",
            )
        if harmless:
            self.told.append(f"passed over, beside the splits: {some_of(harmless)}")

    def find_classes(self, folder: Folder) -> tuple[str, ...]:
        """Return the class names of a folder of class folders, in label order."""
        require_whole_links([folder])
        _require_classes(folder)
        _refuse_splits(folder.folders.values(), f"{quoted(folder.path)} has class folders and")
        self.beside += folder.images
        self.visited.append(folder)
        return tuple(folder.folders)

    def list_classes(self, folder: Folder, names: Sequence[str]) -> Listing:
        """Return the images of classes in a folder of class folders; the first of `names` has the label 0."""
        paths, inodes = [], []
        for name in names:
            found = walk(folder.folders[name], [*self.above, folder])
            self._take(folder.folders[name], found)
            paths.append(found.paths)
            inodes.append(found.inodes)
        self._tell_of_names({name: folder.folders[name] for name in names})
        labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(of_class) for of_class in paths])
        return Listing(folder.path, Paths.joined(paths), labels, np.concatenate(inodes))

    def _take(self, top: Folder, found: Walk) -> None:
        """Remember what was found in a class folder, and refuse what cannot be right."""
        require_whole_links(found.visited)
        if not found.paths:
            others = endings(found.visited)
            what = f"has no images by their ending, but {others}" if others else "has no images"
            raise InputError(
                f"the class folder {quoted(top.path)} {what}",
                f"remove it or put images into it: {', '.join(EXTENSIONS)}",
            )
        inside = [folder for folder in found.visited[1:] if folder.images]
        _refuse_splits(inside, f"the class folder {quoted(top.path)} has")
        self.below += [folder.path for folder in inside]
        self.visited += found.visited
        self.repeated += found.repeated

    def _tell_of_names(self, classes: dict[str, Folder]) -> None:
        """Tell of classes that may be something else, or one."""
        self.alike += [folder.path for name, folder in classes.items() if read_split(name)]
        inner = set.intersection(*(set(folder.folders) for folder in classes.values()))
        if len(inner) > 1 and not any(folder.images for folder in classes.values()):
            names = some_of([quoted(name) for name in sorted(inner)])
            self.told.append(
                f"warning: all class folders hold folders of the same names, {names}; if these are the classes, name "
                "the folders around them `train` and `test`"
            )
        twins = defaultdict(list)
        for name in classes:
            twins[_folded(name)].append(quoted(name))
        if same := [" and ".join(names) for names in twins.values() if len(names) > 1]:
            self.told.append(f"warning: classes that differ only in case or in how accents are stored: {some_of(same)}")


def _require_classes(folder: Folder) -> None:
    names = list(folder.folders)
    if not names:
        what = f"{quoted(folder.path)} has images, but no class folders" if folder.images else None
        raise InputError(
            what or f"no images in {quoted(folder.path)}",
            "an image folder holds one folder per class, named as the class; `asq quantize --no-labels` needs none",
        )
    for name in names:
        if fault := not_text(name):
            raise InputError(
                f"the class folder {quoted(folder / name)} has {fault} in its name",
                "rename it: class names are stored as text in runs and exported files",
            )
    if len(names) == 1:
        raise InputError(
            f"{quoted(folder.path)} has one class, {quoted(names[0])}; a classifier needs two or more",
            f"if the class folders are those in it: `--data {printable(folder / names[0])}`"
            if folder.folders[names[0]].folders
            else None,
        )


def _refuse_splits(folders: Iterable[Folder], where: str) -> None:
    """Refuse folders that are named as splits where classes are, or parts of a class.

    Raises:
        InputError: there are some; `where` begins the message.
    """
    splits = [quoted(f.path) for f in folders if (said := read_split(f.name)) is not None and not said.rest]
    if splits:
        raise InputError(
            f"{where} {some_of(splits)}, named as a split",
            "splits hold classes, not the other way round: `train/<class>`; or give the folder another name",
        )


def _same_classes(listed: Sequence[tuple[tuple[str, ...], str]]) -> tuple[str, ...]:
    """Return the classes, the same in all splits. `listed`: (class names, folder) of each."""
    classes, first = listed[0]
    for names, folder in listed[1:]:
        if names != classes:
            lacks = [f"{quoted(name)} is only in {quoted(first)}" for name in classes if name not in names]
            lacks += [f"{quoted(name)} is only in {quoted(folder)}" for name in names if name not in classes]
            alike = {_folded(name) for name in names} == {_folded(name) for name in classes}
            hint = "the names differ only in case or in how accents are stored: rename them" if alike else None
            raise InputError(f"the splits have other classes: {some_of(lacks)}", hint)
    return classes


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
