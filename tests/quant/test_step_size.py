import torch

from asqcli.quant.activation_quantizers import start_step_size
from asqcli.quant.fake_quant import fake_quantize, fake_quantize_to_levels
from asqcli.quant.levels import post_levels
from asqcli.quant.step_size import SMALLEST_STEP, least_squares_start, lsq_start


def test_lsq_start_by_hand():
    x = torch.tensor([[1.0, -1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(lsq_start(x, qmax=4), torch.tensor([1.0, SMALLEST_STEP]))


def test_least_squares_start_is_the_best_of_a_fine_search_row_by_row():
    torch.manual_seed(0)
    x = torch.randn(3, 400) * torch.tensor([[0.1], [1.0], [7.0]])
    for quantizer in (
        lambda x, t: fake_quantize(x, t / 8, qmin=-8, qmax=7),
        lambda x, t: fake_quantize_to_levels(x, t, post_levels(3)),
    ):
        found = least_squares_start(x, quantizer)
        for row, threshold in zip(x, found, strict=True):
            row = row[None]
            error = (quantizer(row, threshold.reshape(1, 1)) - row).square().sum()
            fine = min(
                (quantizer(row, (row.abs().max() * k / 1000).reshape(1, 1)) - row).square().sum()
                for k in range(50, 1001)
            )
            assert error <= fine * 1.02


def test_a_channel_of_zeros_gets_a_threshold_above_zero():
    found = least_squares_start(torch.zeros(2, 9), lambda x, t: fake_quantize(x, t / 8, qmin=-8, qmax=7))
    assert (found > 0).all()


def test_a_few_large_values_do_not_decide_alone():
    """After a swish and a norm on few pixels: most values are small, and tell images apart; one in 200 is large."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(20_000, generator=generator) * 0.1
    samples[::200] = 15.0
    least = (least_squares_start(samples[None], lambda x, t: fake_quantize(x, t / 7, qmin=-8, qmax=7)) / 7).squeeze()
    assert (samples.abs() < least / 2).float().mean() > 0.9
    step_size = start_step_size(samples, -8, 7, "mse")
    assert step_size == lsq_start(samples[None], 7).squeeze() and step_size < least
    usual = torch.randn(20_000, generator=generator)
    least = least_squares_start(usual[None], lambda x, t: fake_quantize(x, t / 7, qmin=-8, qmax=7)) / 7
    assert start_step_size(usual, -8, 7, "mse") == least.squeeze()
