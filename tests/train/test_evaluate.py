import pytest
import torch
from torch import nn

from asqcli.data.preprocessing import Preprocessing
from asqcli.data.splits import MemorySplit
from asqcli.train.evaluate import evaluate
from tests.parts_in_threads import in_threads


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


@pytest.mark.parametrize("images", [2, 3, 7, 50])
def test_several_processes_count_every_image_once_and_poll_equally_often(tiny_net, images):
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 8, 8), dtype=torch.uint8)
    preprocessing = Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3, "none", padding=1)
    split = MemorySplit(pixels, torch.arange(images) % 10, preprocessing)
    device = torch.device("cpu")
    expected = evaluate(tiny_net, split, device=device)

    def work(threads):
        polls = []
        return evaluate(
            tiny_net, split, batch_size=4, device=device, poll=lambda: polls.append(1), processes=threads
        ), len(polls)

    tiny_net.eval()  # the threads share it
    (first, polls), *others = in_threads(3, work)
    assert (first.top1, first.top5, first.images) == (expected.top1, expected.top5, images)
    assert first.loss == pytest.approx(expected.loss) and others == [(first, polls)] * 2
