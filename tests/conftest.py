"""What the tests share: offline everywhere, a tiny network, image folders, the real data where it is at hand."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

os.environ["ASQ_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for commands: the tests' processes share the cores
torch.set_num_threads(1)


LONGEST = {"test_documents.py", "test_study.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: at the end one worker would go on with them while the others wait."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


class TinyNet(nn.Module):
    """Five quantizable layers, depthwise and pointwise ones among them, a residual sum, batch norm, a linear head."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.pointwise = nn.Conv2d(8, 16, 1, stride=2)
        self.linear_bottleneck = nn.Conv2d(16, 12, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(12, num_classes)

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        x = (x + self.bn2(self.depthwise(x))).relu()
        x = self.linear_bottleneck(self.pointwise(x))
        return self.head(self.pool(x).flatten(1))


@pytest.fixture
def tiny_net() -> TinyNet:
    """A TinyNet with settled, uneven batch-norm statistics and a negative gamma."""
    torch.manual_seed(0)
    net = TinyNet()
    with torch.no_grad():
        for norm in (net.bn, net.bn2):
            norm.weight.uniform_(0.5, 1.5)
            norm.weight[0] = -0.7
            norm.bias.uniform_(-0.3, 0.3)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return net.eval()


def write_image_folder(root: Path, counts: dict[str, int], *, size: tuple[int, int] = (24, 24), seed: int = 0) -> Path:
    """Write JPEG files `root/<class>/<n>.jpg` whose colour tells the class."""
    rng = np.random.default_rng(seed)
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            pixels = rng.integers(0, 60, (size[1], size[0], 3)) + np.array([label * 37 % 180, 90, label * 71 % 180])
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{n}.jpg", quality=90)
    return root


@pytest.fixture(name="write_image_folder")
def write_image_folder_fixture():
    """The function above, for tests to call."""
    return write_image_folder


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Three classes of twelve 24x24 images."""
    return write_image_folder(tmp_path / "images", {"ant": 12, "bee": 12, "cow": 12})


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with CIFAR-10 (JPEG) and pretrained ResNet-20 weights, named by ASQ_TEST_DATA."""
    folder = os.environ.get("ASQ_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ASQ_TEST_DATA does not name the folder with the real data")
    return Path(folder)
