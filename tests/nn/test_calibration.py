"""What starting values are read off."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asqcli.nn.calibration import SAMPLES, observe_inputs


class PadsItself(nn.Conv2d):
    """Puts a border of zeros around its input, as networks do that came from TensorFlow."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias, groups=self.groups)


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize(("channels", "side"), [(1000, 7), (1152, 7), (640, 10), (96, 26)])
def test_samples_come_from_everywhere(channels, side, batches):
    """A stride that shares a factor with the width saw the border alone, and the layer's step started at zero."""
    net = nn.Sequential(PadsItself(channels, channels, 3, groups=channels))
    images = -(-9 * SAMPLES // batches // (channels * (side + 2) ** 2))
    statistics = observe_inputs(net, ["0"], [torch.ones(images, channels, side, side)] * batches)
    samples = statistics["0"].samples
    inside = side**2 / (side + 2) ** 2
    assert len(samples) > 0.8 * SAMPLES and samples.mean().item() == pytest.approx(inside, abs=0.05)
