"""What public networks do to put numbers elsewhere: exported, equal to the bit, and natively where there is a step."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.export.between import SIZE, assert_exported, refusal

NATIVE = {
    "borders and crops": lambda x: F.pad(x, (-1, 2, 0, -3)) * 2,
    "crops": lambda x: F.pad(x, (-1, -1, -2, 0, 0, -1)),
    "crop of a layer": nn.ZeroPad2d((-1, 1, -1, 1)),
    "channels around, dimension by dimension": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 3, 0, 0)),
    "no border": lambda x: F.pad(x, (0, 0, 0, 0)),
    "reflection and crop": lambda x: F.pad(x, (-1, 1, 2, -2), mode="reflect"),
    "zeros behind": lambda x: torch.cat([x, x[:, :1], torch.zeros_like(x)], 1),
    "zeros around": lambda x: torch.cat([torch.zeros(len(x), 2, SIZE, SIZE), x, x.new_zeros(len(x), 1, SIZE, SIZE)], 1),
    "new axes": lambda x: x * torch.sigmoid(x.mean((2, 3)))[:, :, None, None],
    "new axis and dots": lambda x: x[:, None, ..., 1:].squeeze(1),
    "channels picked": lambda x: x[:, [5, 0, 1, -3]] + x[:, torch.tensor([1, 2, 3, 4])],
    "channels selected": lambda x: torch.index_select(x, 1, torch.tensor([2, 1, 0])),
    "narrow": lambda x: x.narrow(1, 2, 3) * x.narrow(2, -1, 1).select(1, 2).unsqueeze(1),
    "pieces": lambda x: torch.cat([*x.split_with_sizes([1, 5], 1)[::-1], *x.tensor_split(4, dim=1)], 1),
    "channel shuffle": lambda x: F.channel_shuffle(nn.ChannelShuffle(2)(x), 3),
    "pixels to channels": lambda x: F.pixel_unshuffle(x, 2),
    "a plane for all channels": lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)) + x[:, :1].expand(-1, 6, -1, -1),
    "rows and columns": lambda x: x * torch.sigmoid(x.mean(2, keepdim=True)) + x.amax(3, keepdim=True),
    "a row and a column": lambda x: x.mean(2, keepdim=True) * x.mean(3, keepdim=True),
    "repeated": lambda x: x.repeat(1, 2, 1, 1).tile(1, 1, 3),
    "repeated place by place": lambda x: x.repeat_interleave(2, 1).repeat_interleave(3, dim=-1),
    "clamps": lambda x: (+x).clamp_min(-0.5).clamp_max_(0.5),
}
NOT_NATIVE = {
    "channels to pixels": lambda x: F.pixel_shuffle(torch.cat([x, x], 1), 2),
}
REFUSED = {
    "ones behind": (lambda x: torch.cat([x, torch.ones_like(x)], 1), "joins values and, before or after them, zeros"),
    "zeros between": (lambda x: torch.cat([x, torch.zeros_like(x), x], 1), "joins values and, before or after them"),
    "a mask": (lambda x: x[:, torch.tensor([True, False] * 3)], "takes places of them that are no values"),
    "by another border": (nn.ConstantPad2d(1, 1.0), "pads with zeros, or with pixels of the image"),
    "repeated unevenly": (lambda x: x.repeat_interleave(torch.tensor([1, 2] * 3), 1), "as many times as any other"),
    "the images": (lambda x: x.repeat(2, 1, 1, 1)[::2], "it repeats the images of the batch"),
}


@pytest.mark.parametrize("chosen", NATIVE)
def test_exported_and_equal(chosen, tmp_path):
    assert_exported(NATIVE[chosen], tmp_path / "net.asq")


@pytest.mark.parametrize("chosen", NOT_NATIVE)
def test_exported_and_equal_on_numpy(chosen, tmp_path):
    assert_exported(NOT_NATIVE[chosen], tmp_path / "net.asq", native=False)


@pytest.mark.parametrize("chosen", REFUSED)
def test_refused_with_the_reason(chosen, tmp_path):
    refusal(*REFUSED[chosen], tmp_path / "net.asq")


def test_a_squeeze_of_the_batch_too_is_refused_with_what_to_write(tmp_path):
    def middle(x):
        return x * F.adaptive_avg_pool2d(x, 1).squeeze().reshape(-1, 6, 1, 1)

    refused = refusal(middle, "`squeeze` cannot be exported: it gives a tensor of shape", tmp_path / "net.asq")
    assert refused.hint == "name the dimensions, as `squeeze(-1)` does, or use `flatten(1)`"
