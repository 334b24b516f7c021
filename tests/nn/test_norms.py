import numpy as np
import pytest
import torch
from torch import nn

from asqcli.nn.norms import two_step_kind


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm2d, (3, 5, 4, 4)), (nn.BatchNorm1d, (3, 5)), (nn.BatchNorm1d, (3, 5, 7))]
)
def test_batch_norm_is_a_multiplication_and_an_addition(kind, shape):
    torch.manual_seed(0)
    norm = kind(5)
    with torch.no_grad():
        norm.weight.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 3)
    twin, x = two_step_kind(kind).from_float(norm.eval()), torch.randn(shape)
    g = norm.weight.detach().double().detach().numpy() / np.sqrt(norm.running_var.double().detach().numpy() + norm.eps)
    b = norm.bias.detach().double().detach().numpy() - norm.running_mean.double().detach().numpy() * g
    g, b = (v.astype(np.float32).reshape(-1, *[1] * (len(shape) - 2)) for v in (g, b))
    product = x.detach().numpy() * g
    assert np.array_equal(twin(x).detach().numpy(), product + b)
    torch.testing.assert_close(twin(x), norm(x), rtol=1e-5, atol=1e-6)
    assert torch.equal(twin.train()(x), norm.train()(x))
    assert twin.running_mean is norm.running_mean and isinstance(twin, kind)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("affine", [True, False])
def test_the_gradients_of_a_batch_norm_that_keeps_its_statistics_are_those_of_a_product_and_a_sum(affine, layout):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5, affine=affine).double()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 3)
    twin = two_step_kind(nn.BatchNorm2d).from_float(norm.eval())
    inputs = [
        torch.randn(3, 5, 4, 6, dtype=torch.float64).to(memory_format=layout).requires_grad_(),
        *norm.parameters(),
    ]
    weights = torch.randn(3, 5, 4, 6, dtype=torch.float64)
    own = torch.autograd.grad((twin(inputs[0]) * weights).sum(), inputs)
    deviation = (norm.running_var + norm.eps).sqrt()[:, None, None]
    normal = (inputs[0] - norm.running_mean[:, None, None]) / deviation
    whole = normal if not affine else normal * norm.weight[:, None, None] + norm.bias[:, None, None]
    for mine, other in zip(own, torch.autograd.grad((whole * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(mine, other)
    assert own[0].is_contiguous(memory_format=layout)
