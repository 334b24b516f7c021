"""Batch norm over the parts of a batch, beside PyTorch's own over the whole."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from asqcli.api import quantize_module
from asqcli.errors import UnsupportedError
from asqcli.processes.alone import Processes
from asqcli.train.forward import backward_in_training, forward_in_training
from asqcli.train.one_batch import as_one_batch
from tests.parts_in_threads import in_threads, own_part


class Derived(nn.BatchNorm2d):
    """Calls the function by itself, and brings an activation along."""

    def forward(self, x):
        self.num_batches_tracked += 1
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        ).relu()


IMAGES, LAST = (7, 5, 6, 6), torch.channels_last
NORMS = {
    "images": (nn.BatchNorm2d(5), torch.randn(IMAGES)),
    "channels last": (nn.BatchNorm2d(5), torch.randn(IMAGES).contiguous(memory_format=LAST)),
    "cumulative": (nn.BatchNorm2d(5, momentum=None), torch.randn(IMAGES)),
    "not affine": (nn.BatchNorm2d(5, affine=False), torch.randn(IMAGES)),
    "without statistics": (nn.BatchNorm2d(5, track_running_stats=False), torch.randn(IMAGES)),
    "features": (nn.BatchNorm1d(5), torch.randn(7, 5)),
    "lines": (nn.BatchNorm1d(5), torch.randn(7, 5, 3)),
    "volumes": (nn.BatchNorm3d(5), torch.randn(7, 5, 2, 3, 4)),
    "derived": (Derived(5), torch.randn(IMAGES)),
}


@pytest.mark.parametrize("name", NORMS)
def test_the_parts_of_a_batch_are_normalized_as_the_whole(name):
    norm, x = NORMS[name]
    torch.manual_seed(0)
    x = x * torch.arange(1, 6).reshape(1, 5, *[1] * (x.dim() - 2)) + 30  # far from zero: sums of squares cancel
    upstream = torch.randn_like(x)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, -1, 1)
    expected, whole = copy.deepcopy(norm).double(), x.double().requires_grad_()
    outputs = [expected(whole) for _ in range(2)][-1]  # twice, for running statistics
    outputs.backward(upstream.double())

    def work(threads):
        own, part = copy.deepcopy(norm), own_part(x, threads).clone().requires_grad_()
        with as_one_batch(threads):
            output = [own(part) for _ in range(2)][-1]
            output.backward(own_part(upstream, threads))
        if norm.affine:
            threads.add_gradients(own, 1)
        return output, part.grad, own

    parts = in_threads(3, work)
    close = {"rtol": 1e-4, "atol": 1e-4}  # float32, 30 away from zero
    torch.testing.assert_close(torch.cat([output for output, _, _ in parts]).double(), outputs, **close)
    torch.testing.assert_close(torch.cat([gradient for _, gradient, _ in parts]).double(), whole.grad, **close)
    for _, _, own in parts:
        for (key, value), tensor in zip(expected.named_buffers(), own.buffers(), strict=True):
            torch.testing.assert_close(tensor.to(value.dtype), value, rtol=1e-6, atol=0, msg=key)
        for tensor, value in zip(own.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(tensor.grad.double(), value.grad, **close)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_run_again_in_the_backward_is_normalized_as_the_whole(reentrant):
    torch.manual_seed(0)
    norm, x, upstream = nn.BatchNorm2d(5), torch.randn(IMAGES), torch.randn(IMAGES)
    whole = x.clone().requires_grad_()
    (norm(whole) * upstream).sum().backward()

    def work(threads):
        part = own_part(x, threads).clone().requires_grad_()
        with as_one_batch(threads):
            output = checkpoint(copy.deepcopy(norm), part, use_reentrant=reentrant)
            backward_in_training((output * own_part(upstream, threads)).sum())
        return part.grad

    torch.testing.assert_close(torch.cat(in_threads(2, work)), whole.grad, rtol=1e-4, atol=1e-5)


def test_norms_inside_quantized_networks_are_seen(tiny_net):
    torch.manual_seed(1)
    images = torch.randn(8, 3, 8, 8)
    model = quantize_module(tiny_net, [images]).train()
    model.bn2.eval()  # held by its author
    whole = copy.deepcopy(model)
    expected = whole(images)

    def work(threads):
        own = copy.deepcopy(model)
        with as_one_batch(threads):
            return own(own_part(images, threads)), own

    parts = in_threads(2, work)
    torch.testing.assert_close(torch.cat([logits for logits, _ in parts]), expected, rtol=1e-4, atol=1e-5)
    for _, own in parts:
        torch.testing.assert_close(own.bn.running_var, whole.bn.running_var)
        assert torch.equal(own.bn2.running_var, tiny_net.bn2.running_var)


def test_half_precision_goes_through():
    norm, x = nn.BatchNorm2d(4), torch.randn(4, 4, 3, 3)

    def work(threads):
        with as_one_batch(threads):
            return copy.deepcopy(norm)(own_part(x, threads).bfloat16())

    output = torch.cat(in_threads(2, work))
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), norm(x), rtol=0.02, atol=0.02)


def test_a_channel_needs_two_values_in_all():
    x = torch.randn(2, 4, 1, 1)

    def one_each(threads):
        with as_one_batch(threads):
            return nn.BatchNorm2d(4)(own_part(x, threads))

    torch.testing.assert_close(torch.cat(in_threads(2, one_each)), nn.BatchNorm2d(4)(x))

    class Lonely(Processes):
        size = 2  # the other has nothing

    with as_one_batch(Lonely()), pytest.raises(UnsupportedError, match="more than 1 value per channel"):
        forward_in_training(nn.BatchNorm2d(4), x[:1])
