"""What several processes see to before they train together. Of a process alone all of it holds."""

from __future__ import annotations

import hashlib
from pathlib import Path

from asqcli.data.samples import DataSet
from asqcli.data.splits import Split, batches_per_pass
from asqcli.errors import InputError, UsageError
from asqcli.processes.alone import Processes
from asqcli.recipe.schema import Recipe
from asqcli.run.folder import RECIPE, RunFolder
from asqcli.run.images import known_of
from asqcli.train.progress import Progress


def require_enough_images(split: Split, batch_size: int, processes: Processes) -> None:
    """Refuse batches that leave a process without an image.

    Raises:
        UsageError: the smallest batch of a pass has fewer images than there are processes.
    """
    smallest = len(split) // batches_per_pass(split, batch_size)
    if smallest < processes.size:
        raise UsageError(
            f"a batch of {smallest} image{'s' * (smallest > 1)} is too small for {processes.size} processes, each of "
            "which takes a part of it",
            "`--batch-size` is that of all processes together: raise it, or start fewer",
        )


def require_alike(processes: Processes, recipe: Recipe, data: DataSet[Split], progress: Progress | None = None) -> None:
    """Refuse processes that would not do the same: on several machines, folders of one name may differ.

    Args:
        progress: of the checkpoint to go on from, if any.
    Raises:
        InputError: their recipe, images or checkpoint are not the same.
    """
    if processes.size == 1:
        return
    seen = repr((recipe.model_dump_json(), data.classes, known_of(data), progress))
    if len(set(processes.texts(hashlib.sha256(seen.encode()).hexdigest()))) > 1:
        raise InputError(
            "the processes do not see the same recipe, images or checkpoint",
            "on several machines, the run's folder, data and weights must be the same for all of them",
        )


def create_folder(processes: Processes, out: str | None, name: str, *, force: bool) -> RunFolder:
    """Have the first process make the run's folder, as `RunFolder.create`; the others get one that they only read."""
    folder = RunFolder.create(out, name, force=force) if processes.first else None
    path = processes.texts("" if folder is None else str(folder.path))[0]
    return folder or RunFolder(Path(path), writable=False)


def is_there(processes: Processes, out: str, recipe: Recipe) -> bool:
    """Is `out` the folder of a run of this recipe, to the first process? One that torchrun starts again goes on."""
    found = processes.first and (Path(out) / RECIPE).is_file() and RunFolder.open(Path(out)).recipe() == recipe
    return bool(processes.sum(found)[0])
