"""Which folders in a folder are splits: by their names, and by what lies in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from asqcli.data.folders import Folder, has_images
from asqcli.data.split_names import is_filler, read_split, says_unlabelled
from asqcli.errors import InputError, quoted, some_of

SPLITS = ("train", "val", "test")


def split_names_in(folder: Folder) -> dict[str, str]:
    """Return which folders in it are splits: by name, train, val, test or eval.

    Plain names are. Names with other words are where they come in pairs (`seg_train`, `seg_test`), or stand alone.
    """
    read = {name: said for name in folder.folders if (said := read_split(name)) is not None}
    pairs = defaultdict(set)
    for said in read.values():
        pairs[said.rest].add(said.split)
    names = {name: said.split for name, said in read.items() if not said.rest or len(pairs[said.rest]) > 1}
    if read and not names and (lone := lone_folder(folder)) is not None and lone.name in read:
        return {lone.name: read[lone.name].split}
    # Folders of labels or masks have a split's name too: without images they take it from no other.
    claims = list(names.values())
    return {n: s for n, s in names.items() if claims.count(s) == 1 or has_images(folder.folders[n], [folder])}


def folders_by_split(around: Folder, names: dict[str, str]) -> dict[str, Folder]:
    """Return the folder of each split, in the order of SPLITS.

    Args:
        names: from `split_names_in`.
    Raises:
        InputError: several folders are named as one split.
    """
    claims = defaultdict(list)
    for name, split in names.items():
        claims[split].append(name)
    if measured := claims.pop("eval", []):  # the last of train, val and eval, or of train, eval and test
        claims["val" if "test" in claims else "test"] += measured
    for split, several in claims.items():
        if len(several) > 1:
            raise InputError(
                f"{quoted(around.path)} has several folders that are named as the split {split}: "
                f"{some_of([quoted(name) for name in sorted(several)])}",
                "leave one of them; put the others elsewhere",
            )
    return {split: around.folders[claims[split][0]] for split in SPLITS if split in claims}


def lone_folder(folder: Folder, above: Sequence[Folder] = ()) -> Folder | None:
    """Return the only folder in it that has images whose classes are known; None when there are several, or none."""
    found = None
    around = [*above, folder]
    for inner in folder.folders.values():
        if has_images(inner, around) and not is_unlabelled(inner, around):
            if found is not None:
                return None
            found = inner
    return found


def is_unlabelled(folder: Folder, above: Sequence[Folder]) -> bool:
    """Is it named as one whose classes are unknown, and has no class folders, as `seg_pred/seg_pred/1.jpg`?"""
    if not says_unlabelled(folder.name):
        return False
    above = [*above, folder]
    while inner := [f for f in folder.folders.values() if has_images(f, above)]:
        if len(inner) > 1 or not (is_filler(inner[0].name) or says_unlabelled(inner[0].name)):
            return False
        folder = inner[0]
        above.append(folder)
    return True
