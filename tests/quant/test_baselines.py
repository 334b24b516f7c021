"""PACT and LSQ+ against their papers' formulas, value by value."""

import math

import pytest
import torch

from asqcli.quant.activation_quantizers import make_activation_quantizer
from asqcli.quant.baselines import fake_quantize_offset, fake_quantize_pact, zero_point
from asqcli.quant.spec import LsqActivations, OffsetActivations, PactActivations


@pytest.mark.parametrize("signed", [False, True])
def test_pact_threshold_gets_the_gradient_of_what_is_clipped(signed):
    torch.manual_seed(0)
    qmax = 7
    x = (torch.randn(60, dtype=torch.float64) * 2).requires_grad_()
    alpha = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(60, dtype=torch.float64)
    x_hat = fake_quantize_pact(x, alpha, qmin=-qmax if signed else 0, qmax=qmax)
    x_hat.backward(grad)
    d_alpha, low = 0.0, -1.5 if signed else 0.0
    for n in range(60):
        v, g = x[n].item(), grad[n].item()
        step = 1.5 / qmax
        assert x_hat[n].item() == pytest.approx(round(min(max(v, low), 1.5) / step) * step)
        d_alpha += g if v > 1.5 else -g if signed and v < -1.5 else 0.0
        assert x.grad[n].item() == (g if low < v < 1.5 else 0.0)
    assert alpha.grad.item() == pytest.approx(d_alpha)


@pytest.mark.parametrize("offset", [-0.9, -0.31, 0.0, 0.4, -5.0])
def test_offset_quantizer_follows_lsq_plus_with_a_whole_zero_point(offset):
    torch.manual_seed(0)
    qmax, s = 15, 0.2
    x = torch.randn(80, dtype=torch.float64).requires_grad_()
    step = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    beta = torch.tensor(offset, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(80, dtype=torch.float64)
    x_hat = fake_quantize_offset(x, step, beta, qmax=qmax, gradient_scale=0.5)
    x_hat.backward(grad)
    zero = min(max(round(-offset / s), 0), qmax)
    assert zero_point(step, beta, qmax).item() == zero
    d_step = d_offset = 0.0
    for n in range(80):
        v, g = x[n].item() / s + zero, grad[n].item()
        code = min(max(math.floor(v + 0.5), 0), qmax)
        assert x_hat[n].item() == pytest.approx((code - zero) * s)
        inside = 0 < v < qmax
        assert x.grad[n].item() == (g if inside else 0.0)
        d_step += g * (code - v if inside else code)
        d_offset += 0.0 if inside else g
    assert step.grad.item() == pytest.approx(0.5 * d_step)
    assert beta.grad.item() == pytest.approx(0.5 * d_offset)


@pytest.mark.parametrize("start", ["mse", "lsq"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_fit_their_bits_and_rebuild_the_fake_quantized_input(bits, start):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, 5) * 2 + 1
    for kind, signed in [(PactActivations, True), (PactActivations, False), (OffsetActivations, True)]:
        module = make_activation_quantizer(4, kind(bits=bits), signed=signed, channels_last=False)
        module.start(x if signed else x.relu(), start)
        codes, scale = module.quantize(x)
        assert torch.equal(codes, codes.round()) and codes.max() - codes.min() < 2**bits
        assert codes.abs().max() <= module.largest_code
        torch.testing.assert_close(codes * scale, module(x))


def test_an_offset_fits_a_lopsided_range_better_than_a_symmetric_step():
    torch.manual_seed(0)
    x = torch.nn.functional.silu(torch.randn(4000) * 2)
    errors = {}
    for spec in (LsqActivations(bits=3), OffsetActivations(bits=3)):
        quantizer = make_activation_quantizer(1, spec, signed=True, channels_last=False)
        quantizer.start(x, "mse")
        errors[type(spec)] = (quantizer(x[:, None])[:, 0] - x).square().mean().item()
    assert errors[OffsetActivations] < 0.5 * errors[LsqActivations]
