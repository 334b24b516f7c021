"""Runs as a report sees them: made up, for what is drawn and written; and trained ones, for the command."""

from __future__ import annotations

import shutil

import pytest
from asq_process import QUICK, asq

from asqcli.recipe.schema import Recipe
from asqcli.report.findings import (
    Exported,
    Findings,
    Histogram,
    ImageInput,
    LayerFinding,
    LayerInput,
    LevelUse,
    OutputError,
    Rounding,
    Spread,
)
from asqcli.report.subject import RunReport, Subject
from asqcli.run.folder import RunFolder

NAN = float("nan")
NETWORK = """
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        return (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


def net(num_classes):
    blocks = [Block(8) for _ in range(3)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))
"""


def spread(middle: float) -> Spread:
    return Spread(*(middle * share for share in (0.5, 0.8, 1.0, 1.25, 2.0)))


def rounding(levels: list[float]) -> Rounding:
    edges = [levels[0] + k * (levels[-1] - levels[0]) / 20 for k in range(21)]
    shares = [1 / (len(levels) - 1)] * (len(levels) - 1) + [0.0]
    return Rounding(Histogram(edges, [0.05] * 20), levels, shares)


def made_up_run(index=0, label="run", layers=20, *, adapters=True, prefix="layer1.0.conv", folder="nowhere"):
    """Return a run of a network of so many layers: two epochs of float training, three of quantized."""
    names = [f"{prefix}{k}" for k in range(layers)]
    epochs = [
        {"phase": phase, "epoch": epoch, "train_loss": 1 / epoch, "train_top1": 90.0, "top1": 80.0 + epoch,
         "loss": 0.5, "seconds": 1.0, **({"beta": {name: [0.9, 1.1] for name in names}} if phase == "qat" else {})}
        for phase, count in (("warmup", 2), ("qat", 3)) for epoch in range(1, count + 1)
    ]  # fmt: skip
    recipe = Recipe.model_validate({
        "model": "resnet20",
        "data": {"name": "digits", "image_size": 16, "resize": 16, "augment": "shift"},
        "weights": {"quantizer": "post", "bits": 3},
        "activations": {"quantizer": "asq", "bits": 3},
        "train": {"epochs": 3, "batch_size": 8, "lr": 0.1, "warmup": {"epochs": 2, "lr": 0.1}},
    })  # fmt: skip
    image = ImageInput(3, 0.93 if adapters else None, 0.25, rounding([k / 4 for k in range(8)]))
    findings = Findings(
        images=64,
        measured_on="360 test images of digits",
        layers=[
            LayerFinding(name, "conv", "post 3 bits (7/5)", "asq 3 bits", "hidden quarter" if adapters else None, 0.2,
                         spread(0.1), spread(1.0) if adapters else None, 1040, 8.25)
            for name in names
        ],
        levels=[LevelUse([name], "post 3 bits (7/5)", "clipping threshold", rounding([-1.0, -0.5, 0.0, 0.5, 1.0]))
                for name in names[:3]],
        layer_input=LayerInput(names[0], "asq 3 bits", [image, image]) if names else None,
        outputs=[OutputError(name, spread(0.3)) for name in names],
        exported=Exported(20_000, "avx2", "a processor"),
    )  # fmt: skip
    result = {"top1": 83.0, "top5": 99.0, "loss": 0.5, "float_top1": 82.0, "warnings": ["a warning"]}
    subject = Subject(label, RunFolder(folder), recipe, result, epochs, {"command": ["asq", "quantize"]})
    return RunReport(subject, findings, index)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, request):
    """A folder with runs of a small network of one's own on digits: `post3`, `lsq2` and `float`."""
    cwd = tmp_path_factory.mktemp("trained")
    (cwd / "own.py").write_text(NETWORK)
    for name, *flags in (("post3", "--scheme", "post", "--bits", "3"), ("lsq2", "--scheme", "lsq", "--bits", "2"),
                         ("float", "--scheme", "float")):  # fmt: skip
        done = asq("quantize", "own:net", "--weights", "none", *flags, "--out", name, *QUICK, cwd=cwd)
        assert done.returncode == 0, done.stderr
    return cwd


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of `trained` of one's own."""
    return shutil.copytree(trained, tmp_path / "runs")
