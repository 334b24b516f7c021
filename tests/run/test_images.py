"""Images are known again by their numbers and labels."""

from types import SimpleNamespace

import pytest
import torch

from asqcli.data.preprocessing import Preprocessing
from asqcli.data.splits import MemorySplit
from asqcli.errors import InputError
from asqcli.run.images import known_of, require_same_images

UNIT = Preprocessing(4, 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "none", 0)


def images(*labels):
    split = MemorySplit(torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8), torch.tensor(labels), UNIT)
    return SimpleNamespace(training=split, result=split.section(slice(0, 1)), watch=None)


def test_other_numbers_and_other_labels_are_refused():
    known = known_of(images(0, 1, 1))
    require_same_images(images(0, 1, 1), known, name="photos", run="r")
    require_same_images(images(0, 1), None, name="photos", run="r")  # of a run from before it was kept
    with pytest.raises(
        InputError, match=r"`photos` are not those that `r` began with: 3 \+ 1 images then, 2 \+ 1 images now"
    ):
        require_same_images(images(0, 1), known, name="photos", run="r")
    with pytest.raises(InputError, match=r"began with: 3 \+ 1 images, with other labels"):
        require_same_images(images(0, 0, 1), known, name="photos", run="r")
