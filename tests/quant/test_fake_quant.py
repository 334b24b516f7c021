"""The two autograd functions against the paper's equations written a second way: value by value, in double."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from asqcli.errors import BoundsError
from asqcli.quant.fake_quant import computed_again, fake_quantize, fake_quantize_to_levels, gradient_scale
from asqcli.quant.kernels import dispatch
from asqcli.quant.levels import apot_levels, post_levels, pot_levels
from asqcli.quant.rounding import CACHED, nearest_level, quantize_to_levels


def literal_uniform(x, grad, s, beta, qmin, qmax):
    """Eqs. 4, 5, 7, 8, 9 for one sample: (x_hat, dx, ds_a) with lists of floats; x_hat by the adapted step."""
    s_a = s * beta
    x_hat, d_x, d_s_a = [], [], 0.0
    for value, g in zip(x, grad, strict=True):
        v = value / s_a
        if v < qmin:
            x_int, d_value, d_step = qmin, 0.0, qmin
        elif v > qmax:
            x_int, d_value, d_step = qmax, 0.0, qmax
        else:
            x_int, d_value, d_step = round(v), 1.0, -v + round(v)  # Python rounds half to even
        x_hat.append(x_int * s_a)
        d_x.append(g * d_value)
        d_s_a += g * d_step
    return x_hat, d_x, d_s_a


def away_from_ties(x, step):
    """Move values that are within rounding's reach of a tie or of an edge."""
    v = (x / step * 2).abs()
    return torch.where((v - v.round()).abs() < 1e-3, x + 0.01 * step, x)


@pytest.mark.parametrize(("qmin", "qmax"), [(0, 3), (0, 15), (-8, 7), (-2, 1), (0, 255), (-128, 127)])
def test_asq_follows_equations_7_to_9(qmin, qmax):
    torch.manual_seed(qmax)
    samples, features = 5, 40
    step = torch.tensor(0.37, dtype=torch.float64, requires_grad=True)
    beta = torch.tensor([0.5, 0.8, 1.0, 1.7, 3.0], dtype=torch.float64).reshape(-1, 1, 1, 1).requires_grad_()
    x = torch.randn(samples, features, 1, 1, dtype=torch.float64) * 0.3 * qmax
    x = away_from_ties(x, step.detach() * beta.detach()).requires_grad_()
    grad = torch.randn_like(x)
    scale = gradient_scale(features, qmax)

    x_hat = fake_quantize(x, step, beta, qmin=qmin, qmax=qmax, step_gradient_scale=scale)
    x_hat.backward(grad)

    d_step = 0.0
    for n in range(samples):
        expected, d_x, d_s_a = literal_uniform(
            x[n].flatten().tolist(), grad[n].flatten().tolist(), 0.37, beta[n].item(), qmin, qmax
        )
        torch.testing.assert_close(x_hat[n].flatten(), torch.tensor(expected, dtype=torch.float64))
        torch.testing.assert_close(x.grad[n].flatten(), torch.tensor(d_x, dtype=torch.float64))
        assert beta.grad[n].item() == pytest.approx(d_s_a * 0.37)  # Eq. 9
        d_step += d_s_a * beta[n].item()  # Eq. 8
    assert step.grad.item() == pytest.approx(d_step / math.sqrt(features * qmax))


def test_lsq_weights_have_one_step_gradient_per_channel():
    torch.manual_seed(0)
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    steps = torch.linspace(0.1, 0.6, 6, dtype=torch.float64).reshape(-1, 1, 1, 1).requires_grad_()
    weight = away_from_ties(weight, steps.detach()).requires_grad_()
    grad = torch.randn_like(weight)
    fake_quantize(weight, steps, qmin=-8, qmax=7, step_gradient_scale=0.25).backward(grad)
    for c in range(6):
        _, d_w, d_s = literal_uniform(
            weight[c].flatten().tolist(), grad[c].flatten().tolist(), steps[c].item(), 1.0, -8, 7
        )
        torch.testing.assert_close(weight.grad[c].flatten(), torch.tensor(d_w, dtype=torch.float64))
        assert steps.grad[c].item() == pytest.approx(0.25 * d_s)


def test_dequantizing_by_the_step_size_is_equation_6():
    """x_hat = x_int * s with x_int from s_a: the quotient x_hat / beta; its gradients by the chain rule, by hand."""
    x = torch.tensor([[0.3, 2.0, 9.0]], dtype=torch.float64, requires_grad=True)
    step = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    beta = torch.tensor([[2.0]], dtype=torch.float64, requires_grad=True)
    x_hat = fake_quantize(x, step, beta, qmin=0, qmax=3) / beta
    # x / s_a = 0.3, 2.0, 9.0: codes 0, 2, 3
    torch.testing.assert_close(x_hat, torch.tensor([[0.0, 1.0, 1.5]], dtype=torch.float64))
    x_hat.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64))  # s / s_a inside
    assert step.grad.item() == pytest.approx((0 - 0.3) + (2 - 2.0) + 3)  # x_int - x / s_a inside, n or p outside
    assert beta.grad.item() == pytest.approx(-(0.3 + 2.0) / 2.0**2)  # -x / beta^2 inside, 0 outside


@pytest.mark.parametrize(
    "level_set",
    [make(bits) for make in (post_levels, pot_levels, apot_levels) for bits in (2, 3, 4)]
    + [post_levels(4, grid="7/5", printed=True), post_levels(3, grid="exact")],
)
def test_level_sets_follow_equation_7_with_the_threshold(level_set):
    torch.manual_seed(1)
    weight = torch.randn(4, 30, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([[0.5], [1.0], [2.0], [4.0]], dtype=torch.float64, requires_grad=True)
    grad = torch.randn_like(weight)
    w_hat = fake_quantize_to_levels(weight, alpha, level_set, threshold_gradient_scale=0.5)
    w_hat.backward(grad)
    levels = [sign * m / level_set.largest for m in (0, *level_set.magnitudes) for sign in (-1, 1)]
    for c in range(4):
        a, d_alpha = alpha[c].item(), 0.0
        for k in range(30):
            u = weight[c, k].item() / a
            nearest = min(levels, key=lambda level: abs(level - u))
            assert w_hat[c, k].item() == pytest.approx(a * nearest)
            clipped = abs(u) > 1
            assert weight.grad[c, k].item() == (0 if clipped else pytest.approx(grad[c, k].item()))
            d_alpha += grad[c, k].item() * (math.copysign(1, u) if clipped else nearest - u)
        assert alpha.grad[c].item() == pytest.approx(0.5 * d_alpha)


def test_ties_go_to_the_larger_magnitude_and_distance_is_absolute():
    # POT at 3 bits on 4, 2, 1: the midpoint of 2 and 4 is 3; a logarithmic rule would put it at 2.83.
    weight = torch.tensor([3.0, -3.0, 2.9, 0.5, 0.49, 1.5])
    levels, scale = quantize_to_levels(weight, torch.tensor(4.0), pot_levels(3))
    assert scale == 1 and levels.tolist() == [4, -4, 2, 1, 0, 2]


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("make", [post_levels, pot_levels, apot_levels, lambda bits: post_levels(bits, grid="exact")])
@pytest.mark.parametrize("shape", [(), (0, 3), (5, 3, 3, 3), (2, CACHED + 1)])
def test_the_nearest_level_is_that_of_a_search_over_all(make, bits, shape):
    level_set = make(bits)
    scaled = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * level_set.largest
    flat = scaled.view(-1)
    edges = torch.tensor([*level_set.boundaries, 0.0, -0.0, torch.inf, -torch.inf], dtype=torch.float64)[: len(flat)]
    flat[: len(edges)] = edges
    levels = torch.tensor(level_set.magnitudes, dtype=torch.float64)
    levels = torch.cat([levels, levels.new_zeros(1)])  # largest first: the first of two equal distances is taken
    magnitude = scaled.abs().clamp(max=level_set.largest)
    expected = levels[(magnitude[..., None] - levels).abs().argmin(-1)].copysign(scaled)
    assert torch.equal(nearest_level(scaled, level_set), expected)
    if scaled.dim() == 4:
        last = scaled.to(memory_format=torch.channels_last)
        assert torch.equal(nearest_level(last, level_set), expected)


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(2, 4), threshold=st.floats(1e-4, 1e4), seed=st.integers(0, 999))
def test_power_codes_stay_inside_their_table(bits, threshold, seed):
    weight = torch.randn(64, generator=torch.Generator().manual_seed(seed)) * threshold
    for make in (post_levels, pot_levels, apot_levels):
        levels, _ = quantize_to_levels(weight, torch.tensor(threshold), make(bits))
        assert set(levels.tolist()) <= set(make(bits).level_table)


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(2, 8), signed=st.booleans(), step=st.floats(1e-6, 1e6), seed=st.integers(0, 999))
def test_uniform_codes_stay_inside_their_bits(bits, signed, step, seed):
    from asqcli.quant.bounds import integer_bounds
    from asqcli.quant.rounding import quantize

    qmin, qmax = integer_bounds(bits, signed=signed)
    x = torch.randn(64, generator=torch.Generator().manual_seed(seed)) * step * 2**bits
    codes = quantize(x, torch.tensor(step), qmin=qmin, qmax=qmax)
    assert torch.equal(codes, codes.round()) and codes.min() >= qmin and codes.max() <= qmax


def test_bounds_in_the_wrong_order():
    with pytest.raises(BoundsError, match="not below"):
        fake_quantize(torch.ones(1), torch.ones(()), qmin=3, qmax=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # compiled passes, and those of PyTorch
def test_what_a_product_saves_is_computed_again(dtype, monkeypatch):
    torch.manual_seed(0)
    x, step = (
        torch.rand(4, 3, 6, 6, dtype=dtype, requires_grad=True),
        torch.tensor(0.3, dtype=dtype, requires_grad=True),
    )
    weight = torch.randn(5, 3, 3, 3, dtype=dtype, requires_grad=True)
    passes = []
    made = dispatch.fake_quantize
    monkeypatch.setattr(dispatch, "fake_quantize", lambda *args: passes.append(args) or made(*args))

    def gradients(again):
        x_hat = fake_quantize(x, step, qmin=0, qmax=3)
        if again:
            with computed_again(x_hat):
                y = torch.nn.functional.conv2d(x_hat, weight)
        else:
            y = torch.nn.functional.conv2d(x_hat, weight)
        del x_hat
        return torch.autograd.grad(y.square().sum(), (x, step, weight))

    kept = gradients(again=False)
    assert len(passes) == 1
    assert all(torch.equal(a, b) for a, b in zip(gradients(again=True), kept, strict=True))
    assert len(passes) == 3  # one more forward, and its repetition


def test_what_is_not_fake_quantized_is_kept_as_ever():
    x = torch.rand(3, requires_grad=True)
    with computed_again(x):
        y = x * x
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], 2 * x)


def test_checkpointed_activations_are_left_to_who_checkpoints_them():
    torch.manual_seed(0)
    x, step = torch.rand(2, 3, 5, 5, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3)

    def layer(x):
        x_hat = fake_quantize(x, step, qmin=0, qmax=3)
        with computed_again(x_hat):
            return torch.nn.functional.conv2d(x_hat, weight).relu()

    plain = torch.autograd.grad(layer(x).square().sum(), (x, step))
    again = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).square().sum(), (x, step))
    assert all(torch.equal(a, b) for a, b in zip(again, plain, strict=True))
