"""The test images that runs are measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from asqcli.data.preprocessing import Preprocessing
from asqcli.data.source import open_data
from asqcli.data.splits import Split
from asqcli.errors import InputError
from asqcli.run.checkpoint import Checkpoint
from asqcli.run.entry import preprocessing_of


@dataclass(frozen=True)
class TestImages:
    """Some of a data set's test images.

    Attributes:
        split: these.
        name: the whole, in words.
    """

    split: Split
    name: str


class ImageSource:
    """Opens the data of runs; runs with the same data share it.

    Args:
        count: of the images to take, evenly spread over all.
        data: in the place of what the recipes name; None for that.
        tell: hears how a folder was read.
    """

    def __init__(self, count: int, data: str | None, tell: Callable[[str], None]) -> None:
        self.count, self.data, self.tell = count, data, tell
        self._opened: dict[tuple[str, Preprocessing], tuple[tuple[str, ...], TestImages]] = {}

    def of(self, checkpoint: Checkpoint) -> TestImages:
        """Return the images for the network of a checkpoint.

        Raises:
            InputError: they cannot be had, or have other classes.
        """
        recipe = checkpoint.recipe
        key = self.data or recipe.data.name, preprocessing_of(recipe)
        if key not in self._opened:
            opened = open_data(*key, workers=recipe.data.workers, with_train=False)
            for text in opened.notes:
                self.tell(text)
            images = TestImages(opened.result.spread(self.count), opened.result_name)
            self._opened[key] = opened.classes, images
        classes, images = self._opened[key]
        if classes != checkpoint.classes:
            raise InputError(f"the classes in `{key[0]}` are not those that the run was trained on")
        return images
