"""What several processes see to before they train together."""

import os

import pytest
import torch

from asqcli.data.preprocessing import Preprocessing
from asqcli.data.samples import DataSet
from asqcli.data.splits import MemorySplit
from asqcli.errors import InputError, UsageError
from asqcli.processes.alone import ALONE
from asqcli.recipe.resolve import Request, resolve
from asqcli.run.folder import RunFolder
from asqcli.run.together import create_folder, is_there, require_alike, require_enough_images
from asqcli.train.progress import Progress
from tests.parts_in_threads import Threads, in_threads


def split(images, label=0):
    preprocessing = Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3, "none", padding=1)
    return MemorySplit(torch.zeros(images, 3, 8, 8, dtype=torch.uint8), torch.full((images,), label), preprocessing)


def test_the_smallest_batch_has_an_image_for_each_process():
    three = Threads(0, 3, {})
    require_enough_images(split(12), 4, three)
    with pytest.raises(UsageError, match="a batch of 2 images is too small for 3 processes") as error:
        require_enough_images(split(13), 3, three)  # five batches, of two and three
    assert "`--batch-size` is that of all processes together" in error.value.hint
    with pytest.raises(UsageError, match="a batch of 1 image is"):
        require_enough_images(split(7), 1, three)
    require_enough_images(split(7), 1, ALONE)


@pytest.mark.parametrize("other", [None, "images", "labels", "recipe", "progress"])
def test_processes_that_see_something_else(other):
    def work(threads):
        odd = other if threads.rank else None
        recipe = resolve(Request("resnet20", None, "post", 3 if odd == "recipe" else 4, {}, [])).recipe
        parts = split(9 if odd == "images" else 8, label=odd == "labels"), split(4), None
        progress = Progress("qat", epoch=int(odd == "progress"))
        require_alike(threads, recipe, DataSet(("a", "b"), *parts, "name"), progress)

    if other is None:
        in_threads(2, work)
    else:
        with pytest.raises(InputError, match="do not see the same recipe, images or checkpoint"):
            in_threads(2, work)


def test_one_process_makes_the_folder_and_the_others_only_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = resolve(Request("resnet20", None, "post", 4, {}, [])).recipe

    def work(threads):
        folder = create_folder(threads, None, "net", force=False)
        folder.write_environment({"by": threads.rank})
        folder.append_metrics({"by": threads.rank})
        if threads.first:
            folder.write_recipe(recipe.model_dump(mode="json"), None)
        threads.wait()
        there = is_there(threads, "runs/net", recipe), is_there(threads, "runs", recipe)
        folder.cut_metrics(0 if threads.rank else 1)
        return folder.path, folder.writable, there

    path = tmp_path.joinpath("runs", "net").relative_to(tmp_path)
    assert in_threads(2, work) == [(path, True, (True, False)), (path, False, (True, False))]
    assert sorted(os.listdir("runs/net")) == ["environment.json", "metrics.jsonl", "recipe.yaml"]
    assert (path / "metrics.jsonl").read_text() == '{"by": 0}\n'


def test_threads_are_those_of_as_many_processes(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_environment({"processes": 2, "threads": 3})
    assert folder.threads(2) == 3 and folder.threads() is None
