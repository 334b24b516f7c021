"""While a prepared network evaluates, pools and gates compute in fixed arithmetic, whatever way they are called."""

from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asqcli.arithmetic import formulas
from asqcli.arithmetic.torch_mode import FixedArithmetic, evaluate_in_fixed_arithmetic

X = torch.randn(3, 5, 13, 11, generator=torch.Generator().manual_seed(0)) * 4

CALLS = {
    "functional pool": lambda x: F.adaptive_avg_pool2d(x, 1),
    "module pool": nn.AdaptiveAvgPool2d((7, None)),
    "mean": lambda x: x.mean([2, 3]),
    "mean, kept": lambda x: torch.mean(x, dim=(-1, -2), keepdim=True),
    "mean along one side": lambda x: x.mean(3),
    "mean over channels": lambda x: torch.mean(x, 1, keepdim=True),
    "mean of lines": lambda x: x.flatten(2).mean(axis=-1),
    "sum of pixels": lambda x: x.sum((2, 3), keepdim=True) / 143,
    "sum over channels": lambda x: torch.sum(x, dim=1),
    "factor": lambda x: torch.add(x, x, alpha=0.3),
    "factor, in place": lambda x: x.sub_(x * 0.1, alpha=0.7),
    "windows": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "functional windows": lambda x: F.avg_pool2d(x, 2),
    "sigmoid": nn.Sigmoid(),
    "method": lambda x: x.sigmoid(),
    "in place": lambda x: x.sigmoid_(),
    "tanh": nn.Tanh(),
    "tanh, in place": lambda x: torch.tanh_(x),
    "silu": nn.SiLU(inplace=True),
    "hardswish": F.hardswish,
    "hardsigmoid": nn.Hardsigmoid(),
    "gelu": nn.GELU(),
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_way_of_calling_is_caught_and_close_to_torch(call):
    torchs = call(X.clone())
    with FixedArithmetic():
        ours = call(X.clone())
    assert ours.dtype == torch.float32 and not torch.equal(ours, torchs)
    assert torch.allclose(ours, torchs, atol=1e-6)


def test_places_before_the_images_and_beyond_an_image_are_added_one_by_one():
    parts = [X * factor for factor in (1, 0.1, 3, 0.7, 1 / 7, 0.3, 11, 0.9, 2)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    with FixedArithmetic():
        for dim in (0, 1, 4):
            assert torch.equal(torch.stack(parts, dim).sum(dim), total)
            assert torch.equal(torch.stack(parts, dim).mean(dim), total / 9)


def test_what_has_no_fixed_form_is_left_alone():
    expected = X.mean()
    with FixedArithmetic():
        assert torch.equal(X.mean(), expected)
        assert X.double().mean([2, 3]).dtype == torch.float64
        assert F.avg_pool2d(X, 2, divisor_override=3).shape == (3, 5, 6, 5)


@pytest.mark.parametrize("count_include_pad", [True, False])
def test_windows_beyond_the_border_are_those_of_torch(count_include_pad):
    images = torch.stack([X[0, 0], X[1, 0]])[:, None]
    for size, length, stride in product(range(4, 9), range(2, 5), range(1, 5)):
        for border in range(length // 2 + 1):
            settings = ((length, 3), (stride, 2), (border, 1), True, count_include_pad)
            torchs = F.avg_pool2d(images[:, :, :size], *settings)
            with FixedArithmetic():
                ours = F.avg_pool2d(images[:, :, :size], *settings)
            assert torch.allclose(ours, torchs, atol=1e-6), (size, settings)


def test_pools_do_not_depend_on_the_batch():
    with FixedArithmetic():
        whole = F.adaptive_avg_pool2d(X, (3, 2))
        alone = torch.cat([F.adaptive_avg_pool2d(x[None], (3, 2)) for x in X])
    assert torch.equal(whole, alone)


def test_only_evaluation_is_fixed_and_errors_leave_the_mode():
    network = nn.Sequential(nn.Conv2d(5, 5, 1), nn.Sigmoid())
    evaluate_in_fixed_arithmetic(network)
    assert torch.equal(network.train()(X), torch.sigmoid(network[0](X)))
    assert torch.equal(network.eval()(X), formulas.sigmoid(torch, network[0](X)))
    with pytest.raises(RuntimeError):
        network(X[:, :2])
    assert torch.equal(torch.sigmoid(X), X.sigmoid()) and not torch.equal(torch.sigmoid(X), formulas.sigmoid(torch, X))
