"""Every shipped recipe trains a step, on made-up images of its kind and with random weights."""

import pytest
import torch

from asqcli.recipe.resolve import Request, resolve
from asqcli.recipe.shipped import shipped_recipes
from asqcli.run.context import RunContext
from asqcli.run.entry import start_run
from asqcli.train.reporter import Reporter

pytestmark = pytest.mark.slow

SMALL = ["data.image_size=32", "data.resize=32", "data.workers=0", "train.batch_size=4", "train.max_steps=1",
         "calibration.batches=1"]  # fmt: skip
CELLS = [
    ("resnet20_cifar10", scheme, bits) for scheme in ("lsq", "apot", "asq", "post") for bits in (2, 3, 4)
] + [
    (f"{network}_imagenet", scheme, bits)
    for network, widths in {"resnet18": (2, 8), "resnet34": (3,), "mobilenet_v2": (3, 4)}.items()
    for bits in widths
    for scheme in ("asq", "post")
    if scheme == "asq" or bits <= 4
]  # fmt: skip


def train_a_step(tmp_path, write_image_folder, recipe, scheme=None, bits=None):
    for split in ("train", "val"):
        write_image_folder(tmp_path / split, {"a": 4, "b": 4}, size=(40, 36))
    flags = {"data.name": (str(tmp_path), "--data"), "pretrained": ("none", "--weights")}
    resolved = resolve(Request(None, recipe, scheme, bits, flags, SMALL))
    around = RunContext(torch.device("cpu"), Reporter())
    return start_run(
        resolved.recipe, around, source="test", out=str(tmp_path / "run"), force=False, given=resolved.given
    )


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_as_it_stands(tmp_path, write_image_folder, recipe):
    assert train_a_step(tmp_path, write_image_folder, recipe)["epochs"] == 1


@pytest.mark.parametrize(("recipe", "scheme", "bits"), CELLS)
def test_the_papers_cells_are_a_matter_of_flags(tmp_path, write_image_folder, recipe, scheme, bits):
    result = train_a_step(tmp_path, write_image_folder, recipe, scheme, bits)
    assert (result["scheme"], result["weight_bits"], result["activation_bits"]) == (scheme, bits, bits)
