"""What a run keeps of its images, by which whoever goes on with it sees that they are the same."""

from __future__ import annotations

import hashlib

from asqcli.data.samples import DataSet
from asqcli.data.splits import Split
from asqcli.errors import InputError


def known_of(data: DataSet[Split]) -> str:
    """Return how many images there are and a digest of their labels: of training, result and watched ones."""
    splits = [split for split in (data.training, data.result, data.watch) if split is not None]
    labels = b"".join(split.labels.cpu().numpy().tobytes() for split in splits)
    return f"{' + '.join(str(len(split)) for split in splits)} images, {hashlib.sha256(labels).hexdigest()}"


def require_same_images(data: DataSet[Split], known: str | None, *, name: str, run: str) -> None:
    """Refuse to go on with other images than a run began with: its accuracies would be of two sets.

    Args:
        data: as it was opened.
        known: `known_of` the run's; None of one from before that was kept.
        name: of the data.
    Raises:
        InputError: they are others.
    """
    now = known_of(data)
    if known is not None and known != now:
        before, after = (text.partition(",")[0] for text in (known, now))
        differ = f"{before} then, {after} now" if before != after else f"{after}, with other labels"
        raise InputError(
            f"the images of `{name}` are not those that `{run}` began with: {differ}",
            "bring them back to go on, or begin another run",
        )
