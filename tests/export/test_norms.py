"""Batch norms of features, of lines and across processes, as public networks have them: exported, equal to the bit."""

import pytest
import torch
from torch import nn

from asqcli.api import export_module, quantize_module
from asqcli.artifact import read_artifact
from asqcli.errors import UnsupportedError

SIZE = 8


def of_features(norm: nn.Module) -> nn.Sequential:
    pooled = [nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*pooled, nn.Linear(6, 6), norm, nn.ReLU(), nn.Linear(6, 4))


class Scaled(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) * 2


NETWORKS = {
    "features": lambda: of_features(nn.BatchNorm1d(6)),
    "without weights": lambda: of_features(nn.BatchNorm1d(6, affine=False)),
    "lazy": lambda: of_features(nn.LazyBatchNorm1d()),
    "own class": lambda: of_features(Scaled(6)),
    "features across processes": lambda: of_features(nn.SyncBatchNorm(6)),
    "lines": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Flatten(2), nn.BatchNorm1d(6), nn.Flatten(), nn.Linear(216, 4)
    ),
    "logits": lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 4), nn.BatchNorm1d(4)),
}


def settled(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    images = torch.randn(8, 3, SIZE, SIZE)
    with torch.no_grad():
        for _ in range(2):
            network.train()(images)
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.weight.uniform_(-1.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return quantize_module(network.eval(), [images]).eval()


@pytest.mark.parametrize("chosen", NETWORKS)
def test_exported_and_equal(chosen, tmp_path):
    """`export_module` compares all logits with the network's, and raises where one differs."""
    export_module(settled(NETWORKS[chosen]()), tmp_path / "net.asq", image_size=SIZE, classes="abcd")
    nodes = read_artifact(tmp_path / "net.asq").document.nodes
    assert sum(node.op == "batch_norm" for node in nodes) == 1 + (chosen == "own class")


def test_what_normalises_by_the_image_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match=r"layer `4` \(LayerNorm\) cannot be exported: "):
        export_module(settled(of_features(nn.LayerNorm(6))), tmp_path / "net.asq", image_size=SIZE, classes="abcd")
