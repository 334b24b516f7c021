"""The compiled passes against those of PyTorch: the same values to the bit, and gradients as in double."""

import ctypes
import itertools

import pytest
import torch

from asqcli.quant.fake_quant import fake_quantize
from asqcli.quant.kernels import dispatch, eager, native
from asqcli.quant.kernels.adapted import adapted_codes, adapted_fake_quantize, adapted_fake_quantize_backward
from asqcli.quant.kernels.grid import UniformGrid
from asqcli.quant.levels import apot_levels, post_levels, pot_levels

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(native.loaded() is None, reason="the passes of training were not compiled"),
]

GRIDS = [
    UniformGrid(0, 3), UniformGrid(-8, 7), UniformGrid(0, 255), UniformGrid(-128, 127),
    post_levels(2), post_levels(4), post_levels(4, grid="exact"), pot_levels(3), apot_levels(4),
]  # fmt: skip
LAST = torch.channels_last
# Around the 16 partial sums and the blocks of 512 values; a layer of a network; features; one image; a vector; none.
SHAPES = [
    ((3, 1, 1, 1), LAST), ((2, 3, 5, 1), None), ((2, 17, 1, 1), LAST), ((5, 3, 13, 13), LAST), ((2, 8, 8, 8), None),
    ((4, 65, 9, 7), LAST), ((6, 33), None), ((2, 7, 40), None), ((1, 16, 24, 24), LAST), ((9,), None),
    ((0, 4, 3, 3), None),
]  # fmt: skip


def values(shape, memory_format=None, *, spread=1.0):
    made = torch.randn(shape) * spread
    return made if memory_format is None else made.to(memory_format=memory_format)


def scales(shape, kind):
    if kind == "one":
        return torch.tensor(0.37)
    if kind == "one of a weight":
        return torch.full([1] * len(shape), 0.37)
    return torch.rand(shape[0], *[1] * (len(shape) - 1)) + 0.1


def drawn(grid, kind):
    """Yield (x, grad, scale) of each shape."""
    torch.manual_seed(0)
    largest = max(grid.qmax if isinstance(grid, UniformGrid) else grid.largest, 1)
    for shape, memory_format in SHAPES:
        x, grad = values(shape, memory_format, spread=0.4 * largest), values(shape, memory_format)
        yield x, grad, scales(shape, kind)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("kind", ["one", "one of a weight", "each"])
def test_equals_the_operations_of_pytorch(grid, kind):
    for x, grad, scale in drawn(grid, kind):
        assert native.takes(x, scale)
        x_hat = native.fake_quantize(x, scale, grid)
        assert torch.equal(x_hat, eager.fake_quantize(x, scale, grid)) and x_hat.stride() == x.stride()

        grad_x, grad_scale = native.fake_quantize_backward(grad, x, scale, grid)
        expected_x, _ = eager.fake_quantize_backward(grad, x, scale, grid)
        assert torch.equal(grad_x, expected_x)
        # Summed in double from the same codes; float32 sums may lose what cancels, hence the size of the terms.
        v = (x * (1 / scale)).double()
        codes = (x_hat.double() / scale.double()).nan_to_num()
        terms = grad.double() * codes - grad_x.double() * v
        expected = terms.sum_to_size(scale.shape)
        bound = 1e-6 * terms.abs().sum_to_size(scale.shape) + 1e-6 * (grad.double() * codes).abs().sum_to_size(
            scale.shape
        )
        assert grad_scale.shape == scale.shape and ((grad_scale - expected).abs() <= bound + 1e-12).all()


@pytest.mark.parametrize("grid", [UniformGrid(0, 15), post_levels(4)], ids=str)
def test_gaps_in_memory_and_gradients_of_another_layout(grid):
    torch.manual_seed(1)
    whole = values((4, 12, 6, 6), LAST, spread=9.0)
    for x in (whole[:, 2:9], whole[..., ::2], whole.permute(1, 0, 2, 3), whole[1:2].expand(3, -1, -1, -1)):
        grad, scale = torch.randn(x.shape), torch.tensor(0.7)
        assert torch.equal(native.fake_quantize(x, scale, grid), eager.fake_quantize(x, scale, grid))
        found, expected = (p.fake_quantize_backward(grad, x, scale, grid) for p in (native, eager))
        assert torch.equal(found[0], expected[0])
        assert torch.allclose(found[1], expected[1], rtol=1e-4, atol=1e-4)


def test_nan_infinity_and_ties():
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.5, 1.5, 2.5, -0.5, 3.0, 0.0, -0.0] * 60)
    grad, scale = torch.ones_like(x), torch.tensor(1.0)
    grid = UniformGrid(-2, 3)
    x_hat, expected = (passes.fake_quantize(x, scale, grid) for passes in (native, eager))
    assert torch.equal(x_hat.isnan(), x.isnan()) and torch.equal(x_hat.nan_to_num(), expected.nan_to_num())
    found, _ = native.fake_quantize_backward(grad, x, scale, grid)
    expected, _ = eager.fake_quantize_backward(grad, x, scale, grid)
    assert torch.equal(found[1:10], expected[1:10])  # a NaN has no gradient worth comparing


def test_what_it_leaves_to_pytorch():
    x = torch.randn(4, 3, 2, 2)
    assert native.takes(x, torch.ones(())) and native.takes(x, torch.ones(4, 1, 1, 1))
    assert not native.takes(x, torch.ones(1, 3, 1, 1)) and not native.takes(x, torch.ones(4, 3, 1, 1))
    assert not native.takes(x.double(), torch.ones(())) and not native.takes(x.to("meta"), torch.ones(()))


def both_layouts(shape):
    made = torch.rand(shape) * 2 - 0.3
    return [made] if len(shape) != 4 else [made, made.to(memory_format=LAST)]


@pytest.mark.parametrize(
    "shape", [(5, 16, 7, 9), (3, 3, 8, 8), (4, 70, 3, 3), (1, 130, 5, 5), (6, 40), (2, 9, 40)], ids=str
)
def test_adapter_in_the_same_pass(shape):
    """Against the adapter's formulas in double, differentiated by autograd around the rounding."""
    torch.manual_seed(2)
    channels_last = len(shape) < 4  # of features; of images channels are second
    channels = shape[-1] if channels_last else shape[1]
    widths = (channels, 1) if channels < 8 else (channels, channels // 4, 1)
    layers = [(torch.randn(o, i) * 0.5, torch.randn(o) * 0.3) for i, o in itertools.pairwise(widths)]
    step_size, grid = torch.tensor(0.11), UniformGrid(0, 15)
    for x in both_layouts(shape):
        grad = torch.randn(shape)
        x_hat, answers = adapted_fake_quantize(x, step_size, layers, grid, channels_last=channels_last)
        assert torch.equal(x_hat, eager.fake_quantize(x, answers.scale, grid))

        exact = x.double().requires_grad_()
        parameters = [[p.double().requires_grad_() for p in layer] for layer in layers]
        means = exact.mean(dim=tuple(range(1, x.dim() - 1))) if channels_last else exact.mean(dim=(2, 3))
        means = exact if len(shape) == 2 else means
        hidden = means
        for index, (weight, bias) in enumerate(parameters):
            hidden = torch.nn.functional.linear(hidden.relu() if index else hidden, weight, bias)
        beta = torch.where(hidden >= 0, 1 + hidden, 1 / (1 - hidden.clamp(max=0)))
        assert torch.allclose(answers.beta.double(), beta, rtol=1e-5)

        found_x, found_step, found_layers = adapted_fake_quantize_backward(
            grad, x, step_size, layers, answers, grid, channels_last=channels_last
        )
        rounded_x, grad_scale = eager.fake_quantize_backward(grad.double(), x.double(), answers.scale.double(), grid)
        (beta * step_size.double()).backward(grad_scale.reshape(beta.shape))
        expected = [rounded_x + exact.grad, (grad_scale.flatten() * beta.flatten()).sum()]
        expected += [p.grad for layer in parameters for p in layer]
        found = [found_x, found_step, *(p for layer in found_layers for p in layer)]
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape and (a - b).abs().max() <= 2e-5 * b.abs().max()


def test_threads_change_no_bit():
    torch.manual_seed(3)
    x, grad = values((32, 16, 16, 16), LAST, spread=4.0), values((32, 16, 16, 16), LAST)
    layers = [(torch.randn(4, 16), torch.randn(4)), (torch.randn(1, 4), torch.randn(1))]
    step_size, grid = torch.tensor(0.5), UniformGrid(0, 15)

    def run():
        x_hat, answers = adapted_fake_quantize(x, step_size, layers, grid, channels_last=False)
        backward = adapted_fake_quantize_backward(grad, x, step_size, layers, answers, grid, channels_last=False)
        plain = native.fake_quantize_backward(grad, x, step_size, grid)
        return [x_hat, *answers, *backward[:2], *plain]

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run()
        torch.set_num_threads(3)
        together = run()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_rows_of_an_adapters_weights():
    torch.manual_seed(4)
    weight = torch.randn(7, 33)
    weight[3] = 0
    smallest = 1e-30
    rounded = native.round_rows(weight, 127, smallest)
    assert torch.equal(rounded, eager.round_rows(weight, 127, smallest))
    assert not rounded[3].any() and (rounded - weight).abs().max() <= weight.abs().max() / 254


def test_a_scale_of_fewer_dimensions_lies_along_the_last_ones_as_everywhere_in_torch():
    x, scale = values((4, 4)), torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert not native.takes(x, scale) and native.takes(x, scale[:, None])
    assert torch.equal(fake_quantize(x, scale, qmin=-8, qmax=7)[1], fake_quantize(x[1], scale, qmin=-8, qmax=7))


WHOLE = [grid for grid in GRIDS if isinstance(grid, UniformGrid) or grid.integer]


@pytest.mark.parametrize("grid", WHOLE, ids=str)
@pytest.mark.parametrize("kind", ["one", "one of a weight", "each"])
def test_codes_are_those_of_the_values(grid, kind):
    """Whole numbers in either type, and gradients as of values, of a gradient that is rounded and divided."""
    for x, grad, scale in drawn(grid, kind):
        x_hat = native.fake_quantize(x, scale, grid)
        for dtype in (torch.bfloat16, torch.float32):
            codes = native.codes(x, scale, grid, dtype)
            assert codes.dtype == dtype and codes.stride() == x.stride()
            assert torch.equal(codes.float(), (x_hat / scale).round())
        expected = native.fake_quantize_backward(grad.bfloat16().float() / scale, x, scale, grid)
        for given in (grad, grad.bfloat16(), grad.bfloat16().contiguous()):
            found = native.codes_backward(given, x, scale, grid)
            assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("grid", WHOLE, ids=str)
@pytest.mark.parametrize("kind", ["one", "one of a weight", "each"])
def test_of_bfloat16_all_but_what_is_written_is_in_float(grid, kind):
    for x, grad, scale in drawn(grid, kind):
        rounded, grad = x.bfloat16(), grad.bfloat16()
        in_float = rounded.float()
        assert native.takes(rounded, scale) and not native.takes(rounded)
        for form in (native, eager):
            found, expected = (form.fake_quantize(given, scale, grid) for given in (rounded, in_float))
            assert torch.equal(found, expected.bfloat16())
            for dtype in (torch.bfloat16, torch.float32):
                assert torch.equal(form.codes(rounded, scale, grid, dtype), native.codes(in_float, scale, grid, dtype))
            assert_rounded(*(form.codes_backward(grad, given, scale, grid) for given in (rounded, in_float)))
        pairs = (grad, rounded), (grad.float(), in_float)  # gradients of values
        assert_rounded(*(dispatch.fake_quantize_backward(g, given, scale, grid) for g, given in pairs))


def assert_rounded(found, expected):
    (grad_x, *others), (in_float, *same) = found, expected
    assert torch.equal(grad_x, in_float.bfloat16()) and grad_x.stride() == in_float.stride()
    assert all(torch.equal(a, b) for a, b in zip(others, same, strict=True))


def test_a_value_that_is_none_stays_one():
    x = torch.tensor([float("nan"), float("inf"), 0.5, -0.5, 1.5])
    codes = native.codes(x, torch.tensor(1.0), UniformGrid(-2, 3), torch.bfloat16)
    assert codes.nan_to_num(9).tolist() == [9, 3, 0, 0, 2]
    one = torch.ones(1)
    scaled = native.scaled(torch.tensor([[float("nan"), float("inf"), 1.0]]).bfloat16(), one, one * (1 + 2**-8))
    assert scaled.nan_to_num(9, posinf=8).tolist() == [[9, 8, 1.0]]  # half to even


@pytest.mark.parametrize("widths", [(16, 1), (16, 5, 1)])
@pytest.mark.parametrize("shape", [(5, 16, 7, 9), (2, 9, 16)])
def test_an_adapter_gives_the_codes_of_its_values(widths, shape):
    torch.manual_seed(1)
    x, grad, step_size, grid = torch.rand(shape) * 2 - 0.3, torch.randn(shape), torch.tensor(0.11), UniformGrid(0, 15)
    layers = [(torch.randn(o, i) * 0.5, torch.randn(o) * 0.3) for i, o in itertools.pairwise(widths)]
    last = len(shape) < 4
    x_hat, answers = adapted_fake_quantize(x, step_size, layers, grid, channels_last=last)
    for dtype in (torch.bfloat16, torch.float32):
        codes, same = adapted_codes(x, step_size, layers, grid, dtype, channels_last=last)
        assert codes.dtype == dtype and torch.equal(codes.float(), (x_hat / answers.scale).round())
        assert all(torch.equal(a, b) for a, b in zip(answers, same, strict=True))
    found, expected = (
        adapted_fake_quantize_backward(g, x, step_size, layers, answers, grid, channels_last=last, of_codes=codes)
        for g, codes in ((grad.bfloat16(), True), (grad.bfloat16().float() / answers.scale, False))
    )
    for a, b in zip(
        (*found[:2], *itertools.chain(*found[2])), (*expected[:2], *itertools.chain(*expected[2])), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("units", [0, 9])
@pytest.mark.parametrize("shape", [(5, 16, 17, 90), (5, 70, 17, 9), (40, 9, 70), (600, 40)])
def test_of_bfloat16_an_adapter_adapts_in_float(shape, units, threads):
    torch.manual_seed(1)
    linear, usual = len(shape) < 4, torch.get_num_threads()
    channels = shape[-1] if linear else shape[1]
    widths = (channels, units, 1) if units else (channels, 1)
    layers = [(torch.randn(o, i) * 0.2, torch.randn(o) * 0.3) for i, o in itertools.pairwise(widths)]
    step_size, grid = torch.tensor(0.11), UniformGrid(0, 15)
    try:
        torch.set_num_threads(threads)
        for memory_format in (None,) if linear else (None, LAST):
            x, grad = values(shape, memory_format).bfloat16(), values(shape, memory_format).bfloat16()
            results = []
            for given in (x, x.float()):
                codes, answers = adapted_codes(given, step_size, layers, grid, torch.bfloat16, channels_last=linear)
                grad_x, grad_step, grad_layers = adapted_fake_quantize_backward(
                    grad, given, step_size, layers, answers, grid, channels_last=linear, of_codes=True
                )
                results.append((grad_x, grad_step, codes, *answers, *itertools.chain(*grad_layers)))
            assert_rounded(*results)
            _, answers = adapted_fake_quantize(x, step_size, layers, grid, channels_last=linear)
            found = [  # of values, whose gradient is bfloat16, too
                dispatch.adapted_fake_quantize_backward(
                    g, x, step_size, layers, answers, grid, channels_last=linear, of_codes=False
                )
                for g in (grad, grad.float())
            ]
            assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    finally:
        torch.set_num_threads(usual)


@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [((3, 5, 4, 6), LAST), ((3, 5, 4, 6), None), ((2, 1500, 2, 2), LAST), ((2, 1500, 2, 2), None), ((4, 6, 1, 1), LAST),
     ((1, 16, 9, 9), LAST), ((6, 40), None), ((2, 9, 1100), None), ((2, 3, 4, 5), "linear"),
     ((2, 3, 4, 5), "linear, channels last"), ((0, 4, 3, 3), None)],
    ids=str,
)  # fmt: skip
def test_results_are_scaled_as_by_pytorch(shape, memory_format):
    torch.manual_seed(2)
    linear = len(shape) < 4 or memory_format in ("linear", "linear, channels last")
    channels = shape[-1] if linear else shape[1]
    x = values(shape, LAST if memory_format in (LAST, "linear, channels last") else None).bfloat16()
    for samples, per_channel in itertools.product((1, shape[0]), (1, channels)):
        of_samples = torch.rand(shape[0], *[1] * (len(shape) - 1)) if samples > 1 else torch.rand(())
        of_channels = torch.rand(per_channel) if linear else torch.rand(per_channel, 1, 1)
        assert native.can_scale(x, of_samples, of_channels) == (x.is_contiguous() or not linear)
        found = dispatch.scaled(x, of_samples, of_channels)
        assert found.dtype == torch.bfloat16 and found.stride() == x.stride()
        assert torch.equal(found, (x.float() * (of_samples * of_channels)).bfloat16())


def test_a_library_of_another_source_is_none(monkeypatch):
    find = native.loaded.__wrapped__
    assert find() is not None

    class Other(ctypes.Structure):
        _fields_ = (*native.Pass._fields_, ("more", ctypes.c_int64))

    monkeypatch.setattr(native, "Pass", Other)
    assert find() is None
