import pytest
import torch
from torch import nn

from asqcli.data.preprocessing import Preprocessing
from asqcli.data.splits import MemorySplit
from asqcli.train.evaluate import evaluate


@pytest.mark.parametrize(("size", "batches"), [(8, [256, 44]), (224, [20] * 15)])
def test_large_images_are_evaluated_in_small_batches(size, batches):
    preprocessing = Preprocessing(size, size, (0.5,) * 3, (0.5,) * 3, "none", padding=1)
    pixels = torch.zeros(1, 3, size, size, dtype=torch.uint8).expand(300, -1, -1, -1)
    split = MemorySplit(pixels, torch.zeros(300, dtype=torch.int64), preprocessing)
    seen = []

    class Zeros(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return x.new_zeros(len(x), 2)

    assert evaluate(Zeros(), split, device=torch.device("cpu")).top1 == 100
    assert seen == batches
