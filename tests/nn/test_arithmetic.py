"""While a prepared network evaluates, pools and gates are the exact ones, whatever way they are called."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asqcli.nn.arithmetic import ExactArithmetic, evaluate_exactly
from asqcli.quant.ordered import ordered_adaptive_avg_pool, ordered_avg_pool, ordered_sigmoid

X = torch.randn(3, 5, 13, 11, generator=torch.Generator().manual_seed(0)) * 4

CALLS = {
    "functional pool": lambda x: F.adaptive_avg_pool2d(x, 1),
    "module pool": nn.AdaptiveAvgPool2d((7, None)),
    "mean": lambda x: x.mean([2, 3]),
    "mean, kept": lambda x: torch.mean(x, dim=(-1, -2), keepdim=True),
    "windows": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "functional windows": lambda x: F.avg_pool2d(x, 2),
    "sigmoid": nn.Sigmoid(),
    "method": lambda x: x.sigmoid(),
    "silu": nn.SiLU(inplace=True),
    "hardswish": F.hardswish,
    "hardsigmoid": nn.Hardsigmoid(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_way_of_calling_is_caught_and_close_to_torch(call):
    torchs = call(X.clone())
    with ExactArithmetic():
        ours = call(X.clone())
    assert ours.dtype == torch.float32 and not torch.equal(ours, torchs)
    assert torch.allclose(ours, torchs, atol=1e-6)


def test_what_has_no_exact_form_is_left_alone():
    expected = X.mean()
    with ExactArithmetic():
        assert torch.equal(X.mean(), expected)
        assert X.double().mean([2, 3]).dtype == torch.float64
        assert F.avg_pool2d(X, 2, ceil_mode=True).shape == (3, 5, 7, 6)


def test_pools_do_not_depend_on_the_batch():
    with ExactArithmetic():
        whole = F.adaptive_avg_pool2d(X, (3, 2))
        alone = torch.cat([F.adaptive_avg_pool2d(x[None], (3, 2)) for x in X])
    assert torch.equal(whole, alone)


def test_windows_add_rows_from_left_to_right_then_down():
    pooled = ordered_avg_pool(X, (2, 3), (2, 2), (1, 1), count_include_pad=False)
    for i, j in [(0, 0), (3, 2), (6, 5)]:
        rows = range(max(0, 2 * i - 1), min(13, 2 * i + 1))
        columns = range(max(0, 2 * j - 1), min(11, 2 * j + 2))
        total, count = 0.0, 0
        for r in rows:
            row = 0.0
            for c in columns:
                row += X[1, 4, r, c].item()
                count += 1
            total += row
        assert pooled[1, 4, i, j].item() == torch.tensor(total / count).float().item()


def test_adaptive_windows_cover_the_image():
    ours = ordered_adaptive_avg_pool(X, (6, 4))
    assert torch.allclose(ours, F.adaptive_avg_pool2d(X, (6, 4)), atol=1e-6)
    assert torch.allclose(
        ordered_adaptive_avg_pool(X[:, :, :2, :3], (4, 5)), F.adaptive_avg_pool2d(X[:, :, :2, :3], (4, 5))
    )


def test_sigmoid_is_within_one_unit_of_float32():
    x = torch.cat([torch.linspace(-90, 90, 100_001), torch.tensor([0.0, -0.0, 1e-30, -1e4, 1e4, 3e38, -3e38])])
    exact = torch.sigmoid(x.double())
    unit = torch.finfo(torch.float32).eps * exact + torch.finfo(torch.float32).smallest_normal
    assert ((ordered_sigmoid(x).double() - exact).abs() <= unit).all()


def test_only_evaluation_is_exact_and_errors_leave_the_mode():
    network = nn.Sequential(nn.Conv2d(5, 5, 1), nn.Sigmoid())
    evaluate_exactly(network)
    assert torch.equal(network.train()(X), torch.sigmoid(network[0](X)))
    assert torch.equal(network.eval()(X), ordered_sigmoid(network[0](X)))
    with pytest.raises(RuntimeError):
        network(X[:, :2])
    assert torch.equal(torch.sigmoid(X), X.sigmoid()) and not torch.equal(torch.sigmoid(X), ordered_sigmoid(X))
