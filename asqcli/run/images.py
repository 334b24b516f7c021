"""What a run keeps of its images, by which whoever goes on with it sees that they are the same."""

from __future__ import annotations

import hashlib
from typing import TypedDict

from asqcli.data.samples import DataSet
from asqcli.data.splits import Split
from asqcli.errors import InputError


class KnownImages(TypedDict):
    """The numbers of training, result and watched images, and a digest of their labels."""

    counts: list[int]
    labels: str


def known_of(data: DataSet[Split]) -> KnownImages:
    """Return what is kept of a data set's images."""
    splits = [split for split in (data.training, data.result, data.watch) if split is not None]
    labels = b"".join(split.labels.cpu().numpy().tobytes() for split in splits)
    return {"counts": [len(split) for split in splits], "labels": hashlib.sha256(labels).hexdigest()}


def require_same_images(data: DataSet[Split], known: KnownImages | None, *, name: str, run: str) -> None:
    """Refuse to go on with other images than a run began with: its accuracies would be of two sets.

    Args:
        data: as it was opened.
        known: `known_of` the run's; None of one from before that was kept.
        name: of the data.
    Raises:
        InputError: they are others.
    """
    now = known_of(data)
    if known is None or known == now:
        return
    then, counts = (" + ".join(map(str, images["counts"])) for images in (known, now))
    differ = f"{then} images then, {counts} images now" if then != counts else f"{counts} images, with other labels"
    raise InputError(
        f"the images of `{name}` are not those that `{run}` began with: {differ}",
        "bring them back to go on, or begin another run",
    )
