"""Pools and resampling as public networks have them: exported, equal to the bit."""

import pytest
from torch import nn
from torch.nn import functional as F

from tests.export.between import assert_exported, refusal

MADE = {
    "windows that fit, ceil_mode": lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False),
    "the window beyond is dropped": lambda x: F.avg_pool2d(x, 2, 3, 1, ceil_mode=True),
    "beyond the border": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "beyond the border, which counts": nn.AvgPool2d(3, (4, 3), padding=1, ceil_mode=True),
    "beyond the border, which does not": lambda x: F.avg_pool2d(x, (4, 3), 3, (1, 0), True, False),
    "largest": lambda x: F.adaptive_max_pool2d(x, 1),
    "largest of windows": nn.AdaptiveMaxPool2d((2, 4)),
    "largest of uneven windows": lambda x: F.adaptive_max_pool2d(x, (3, 5)),
    "largest of more windows than pixels": nn.AdaptiveMaxPool2d((11, None)),
    "amax": lambda x: x + x.amax((2, 3), keepdim=True),
    "upsampled": lambda x: F.interpolate(x, scale_factor=3) * 0.5,
    "upsampled to a size": nn.Upsample(size=(8, 16)),
    "upsampled by the exact form": lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact"),
    "downsampled": lambda x: F.interpolate(x, size=(4, 2)) + F.interpolate(x, scale_factor=(0.5, 0.25)),
}
REFUSED = {
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), "and not by `bilinear`"),
    "uneven nearest": (lambda x: F.interpolate(x, size=12), r"it makes \(12, 12\) pixels of \(8, 8\)"),
    "lines": (lambda x: F.max_pool2d(x[:, 0], 2)[:, None], r"it works on images, .* the shape \(8, 8\)"),
    "another divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), "no `divisor_override`"),
    "larger than the image": (lambda x: F.avg_pool2d(x[:, :, :3], (4, 2), 2, ceil_mode=True), "or is larger"),
    "local response norm": (nn.LocalResponseNorm(3), r"layer `middle` \(LocalResponseNorm\) .* it takes a power"),
    "instance norm": (nn.InstanceNorm2d(6), r"\(InstanceNorm2d\) .* the statistics that a batch norm keeps"),
}


@pytest.mark.parametrize("chosen", MADE)
def test_exported_and_equal(chosen, tmp_path):
    assert_exported(MADE[chosen], tmp_path / "net.asq")


@pytest.mark.parametrize("chosen", REFUSED)
def test_refused_with_the_reason_and_what_to_do(chosen, tmp_path):
    assert refusal(*REFUSED[chosen], tmp_path / "net.asq").hint
