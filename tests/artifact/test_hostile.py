"""Files from a stranger are refused with a reason or give an answer: mutants by seed, and wrong files by hand."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from asqcli.api import quantize_module
from asqcli.artifact import document, write_artifact
from asqcli.export.network import export_network
from asqcli.models.cifar_resnet import CifarResNet

RUNNER = Path(__file__).parent / "hostile.py"
MUTANTS = 200


class MixedNet(nn.Module):
    """Every kind of node."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.grouped = nn.Conv2d(16, 8, (1, 3), stride=2, groups=2)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = F.hardswish(x + self.depthwise(x))
        x = torch.cat([F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 2)], dim=1)
        x = F.silu(self.grouped(F.pad(x, (1, 1, 0, 1))))
        x = x * torch.sigmoid(self.squeeze(F.adaptive_avg_pool2d(x, 1)))
        first, second = x.transpose(2, 3).chunk(2, dim=1)
        x = torch.cat([F.hardsigmoid(first), second[:, ::1, ::2]], dim=2)[:, :, :4]
        return self.head(F.adaptive_avg_pool2d(torch.cat([x, x], dim=1), 2).flatten(1))


def export(network: nn.Module, classes: int, path: Path, **settings) -> Path:
    torch.manual_seed(0)
    quantize_module(network, [torch.randn(4, 3, 16, 16)], **settings)
    for name, parameter in network.named_parameters():
        if "adapter" in name:
            nn.init.normal_(parameter, std=0.3)
    preprocessing = document.Input(image_size=16, resize=18, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    artifact = export_network(
        network,
        classes=tuple(f"class {n}" for n in range(classes)),
        preprocessing=preprocessing,
        provenance=document.Provenance(asqcli="test", model="test"),
    )
    path.write_bytes(write_artifact(artifact))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two artifacts, `mixed.asq` and `resnet.asq`, and an image."""
    folder = tmp_path_factory.mktemp("hostile")
    torch.manual_seed(0)
    export(MixedNet(), 5, folder / "mixed.asq", scheme="post", bits=4)
    export(CifarResNet(8), 10, folder / "resnet.asq", scheme="asq", bits=3)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    return folder


def test_mutants_are_refused_with_a_reason_or_give_an_answer(folder):
    done = subprocess.run(
        [sys.executable, RUNNER, "mixed.asq", "resnet.asq", "--image", "image.png", "--count", str(MUTANTS)],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
