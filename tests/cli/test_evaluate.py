"""`asq eval` says what it measured: how images reached the network, and who said so."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from asq_process import asq, fails
from PIL import Image

from asqcli.cli.preprocessing import guess
from asqcli.errors import UsageError
from asqcli.recipe.resolve import Request, resolve

pytestmark = pytest.mark.slow

FACTORY = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=2):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.conv(x).mean((2, 3))
"""


@pytest.fixture
def own_network(tmp_path):
    """A network that tells light from dark with mean and std 0.5, and pictures that ImageNet's statistics shift."""
    (tmp_path / "own.py").write_text(FACTORY)
    # Logits (0, sum of the channels): class 1 where the mean of the normalised pixels is above 0.
    state = {"conv.weight": torch.tensor([[0.0] * 3, [1.0] * 3])[..., None, None], "conv.bias": torch.zeros(2)}
    torch.save(state, tmp_path / "w.pt")
    for split in ("train", "test"):
        for name, value in (("dark", 122), ("light", 134)):  # of 255: ImageNet's mean 0.449 is 114
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for n in range(4):
                picture = Image.fromarray(np.full((20, 20, 3), value, np.uint8))
                picture.save(tmp_path / "pictures" / split / name / f"{n}.png")
    return tmp_path


def test_float_weights_are_measured_as_told_and_a_guess_is_told(own_network):
    command = ["eval", "own:Net", "--weights", "w.pt", "--data", "pictures"]
    guessed = asq(*command, "--json", cwd=own_network)
    document = json.loads(guessed.stdout)
    assert document["top1"] == 50 and document["preprocessing"]["from"] == "defaults"
    assert "`data.image_size`, `data.resize`, `data.mean`, `data.std` are guessed" in guessed.stderr
    values = {"mean": [0.5] * 3, "std": [0.5] * 3}
    overrides = [f"--set=data.{key}={value}" for key, value in values.items()] + ["--set=data.image_size=18"]
    told = asq(*command, "--json", *overrides, cwd=own_network)
    document = json.loads(told.stdout)
    expected = {"image_size": 18, "resize": 18, "interpolation": "bilinear", **values, "from": "--set"}
    assert document["top1"] == 100 and document["preprocessing"] == expected and "guessed" not in told.stderr
    (own_network / "mine.yaml").write_text(
        "model: own:Net\npretrained: w.pt\ntrain: {epochs: 3}\n"
        "data: {name: pictures, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], image_size: 20}\n"
    )
    table = asq("eval", "own:Net", "--recipe", "mine.yaml", "--set", "data.resize=24", cwd=own_network)
    text = " ".join(table.stdout.split())
    assert "100.00%" in text and "shorter side 24 pixels (bilinear), of which 20x20, mean 0.5 0.5 0.5" in text
    assert "(from mine.yaml, --set)" in text.replace(" │ │ │ ", " ").replace("│ │ ", "")


def test_a_run_may_be_measured_otherwise_and_a_file_may_not(run_folder, exported):
    folder, done = run_folder
    own = json.loads(asq("eval", folder, "--json", cwd=folder).stdout)
    assert own["preprocessing"]["from"] == "the run" and own["preprocessing"]["image_size"] == 16
    assert own["top1"] == json.loads(done.stdout)["top1"]
    other = json.loads(asq("eval", folder, "--json", "--set", "data.image_size=24", cwd=folder).stdout)
    assert other["preprocessing"]["from"] == "--set, the run" and other["preprocessing"]["resize"] == 24
    file, document = exported
    assert document["preprocessing"]["from"] == "the run"
    measured = json.loads(asq("eval", file, "--json", cwd=folder).stdout)
    inferred = json.loads(asq("infer", file, "--data", "digits", "--json", cwd=folder).stdout)
    assert measured["preprocessing"] == inferred["preprocessing"] == {**own["preprocessing"], "from": "the file"}
    fails(2, "is part of the file", "eval", file, "--set", "data.image_size=24", cwd=folder)
    for key in ("train.epochs=3", "data.padding=2", "weights={bits: 3}", "data.maen=[0, 0, 0]"):
        fails(2, "makes no sense for an evaluation", "eval", folder, "--set", key, cwd=folder)


def test_official_weights_bring_their_own_preprocessing():
    def resolved(model, *overrides, pretrained="official", **kwargs):
        return resolve(Request(model, None, "float", None, {"pretrained": (pretrained, "")}, [*overrides]), **kwargs)

    inception = resolved("inception_v3", measuring=True)
    assert (inception.recipe.data.image_size, inception.recipe.data.resize, inception.note) == (299, 342, None)
    assert set(inception.origins.values()) == {"official weights"} and guess(inception.origins) is None
    large = resolved("efficientnet_v2_l", "data.image_size=240", measuring=True)
    assert (large.recipe.data.image_size, large.recipe.data.resize, large.recipe.data.mean) == (240, 240, (0.5,) * 3)
    assert large.origins == {"image_size": "--set", "resize": "--set", "mean": "official weights",
                             "std": "official weights"}  # fmt: skip
    assert "bicubic" in large.note
    trained = resolved("efficientnet_v2_l")  # on the digits, at their own size
    assert (trained.recipe.data.image_size, trained.recipe.data.std) == (32, (0.5,) * 3)
    own = resolved("inception_v3", pretrained="w.pt", measuring=True)
    assert set(own.origins.values()) == {"defaults"} and "guessed" in guess(own.origins)
    with pytest.raises(UsageError, match=r"`data\.resize`|`resize`"):
        resolved("resnet18", "data.resize=100", measuring=True)
