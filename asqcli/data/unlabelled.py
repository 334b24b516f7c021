"""A folder of images without labels: all images in it and below count, and what their folders are called says nothing.

But where it has a folder for training images beside one for validation or test images (`split_names`), these are its
splits.
"""

from __future__ import annotations

import numpy as np

from asqcli.data.folders import Folder, Walk, counted, has_images, passed_over, require_whole_links, walk
from asqcli.data.image_folder import ImageFolder
from asqcli.data.listing import Listing, count_once
from asqcli.data.paths import Paths
from asqcli.data.split_folders import SPLITS, folders_by_split, split_names_in
from asqcli.errors import InputError, quoted, some_of
from asqcli.images import EXTENSIONS


def read_unlabelled_folder(path: str) -> ImageFolder:
    """List the images in a folder; it has no classes, and all labels are 0.

    Raises:
        InputError: no images, two folders for one split, links to nothing, folders that may not be read.
    """
    root = Folder.at(path)
    splits, notes = _find_splits(root)
    walks = {split: walk(folder, [root] if folder is not root else []) for split, folder in splits.items()}
    for split, found in walks.items():
        require_whole_links(found.visited)
        if not found.paths:
            raise InputError(f"no images in {quoted(splits[split].path)}", f"asq reads {', '.join(EXTENSIONS)}")
    visited = [folder for found in walks.values() for folder in found.visited]
    notes += passed_over(visited, path)
    if repeated := [link for found in walks.values() for link in found.repeated]:
        notes.append(f"passed over, links to folders that are read already: {counted(repeated, path)}")
    listings = {split: _listing(splits[split], found) for split, found in walks.items()}
    return ImageFolder((), listings, (*notes, *count_once(listings, path, within="split")))


def sample_unlabelled_paths(path: str, count: int) -> Paths:
    """Return about `count` training images, evenly spread. Raises as `read_unlabelled_folder`."""
    paths = next(iter(read_unlabelled_folder(path).splits.values())).paths
    return paths[:: max(1, len(paths) // count)]


def _listing(folder: Folder, found: Walk) -> Listing:
    return Listing(folder.path, found.paths, np.zeros(len(found.paths), np.int64), found.inodes)


def _find_splits(root: Folder) -> tuple[dict[str, Folder], list[str]]:
    """Return the folder of each split, in the order of SPLITS, and what is to be told of them."""
    around, above = root, [root]
    while not (names := split_names_in(around)) and (inner := _only_folder(around, above)) is not None:
        around = inner
        above.append(inner)
    found = folders_by_split(around, names) if names else {}
    if "train" not in found or len(found) == 1:
        return {"train": root}, []
    told = [f"the splits are {', '.join(f'{split} in {quoted(found[split].path)}' for split in found)}"]
    others = [quoted(n) for n, folder in around.folders.items() if n not in names and has_images(folder, above)]
    others += [f"{len(around.images):,} images" for _ in range(bool(around.images))]
    if others:
        told.append(f"passed over, beside the splits: {some_of(others)}")
    return {split: found[split] for split in SPLITS if split in found}, told


def _only_folder(folder: Folder, above: list[Folder]) -> Folder | None:
    """Return the one folder that all images in a folder lie in, None where there is none."""
    inner = [f for f in folder.folders.values() if has_images(f, above)]
    return inner[0] if len(inner) == 1 and not folder.images else None
