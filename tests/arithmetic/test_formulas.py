"""With NumPy and with torch alike, against second forms that follow the documented order operation by operation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from asqcli.arithmetic import formulas

IMAGE = np.random.default_rng(0).standard_normal((3, 5, 13, 11)).astype(np.float32) * 4
NUMBERS = np.concatenate(
    [np.linspace(-90, 90, 100_001), [0.0, -0.0, 1e-30, -1e4, 1e4, 3e38, -3e38, np.inf, -np.inf, np.nan]]
).astype(np.float32)


def on_both(formula, *arrays, **others) -> np.ndarray:
    """Return a formula's value for arrays, the same with NumPy and torch, whatever their order in memory."""
    value = formula(np, *arrays, **others)
    for arrange in (torch.from_numpy, lambda array: torch.from_numpy(array.T.copy().T)):
        tensors = [arrange(array) if isinstance(array, np.ndarray) else array for array in arrays]
        seen = formula(torch, *tensors, **others).numpy()
        assert (seen.dtype, seen.shape) == (value.dtype, value.shape)
        assert without_nan(seen).tobytes() == without_nan(value).tobytes()
    return value


def without_nan(array: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(array), array.dtype.type(1.5), array)  # whose bits are not ours to say


def numpy_mean(x):  # (N, H, W, C)
    rows = np.zeros((x.shape[0], x.shape[1], x.shape[3]))
    for column in range(x.shape[2]):
        rows = rows + x[:, :, column].astype(np.float64)
    total = np.zeros((x.shape[0], x.shape[3]))
    for row in range(x.shape[1]):
        total = total + rows[:, row]
    return (total / (x.shape[1] * x.shape[2])).astype(np.float32)


def numpy_linear(x, weight, scale, bias):
    out = np.empty((len(x), len(weight)))
    for n in range(len(x)):
        for o in range(len(weight)):
            lanes = [0.0] * 8
            for j in range(x.shape[1]):
                lanes[j % 8] += x[n, j] * weight[o, j]
            for half in (4, 2, 1):
                lanes = [lanes[k] + lanes[k + half] for k in range(half)]
            out[n, o] = lanes[0] * scale[o] + bias[o]
    return out


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_mean_equals_its_second_form_to_the_bit(n, h, w, c, seed):
    x = (np.random.default_rng(seed).standard_normal((n, h, w, c)) * 10.0 ** np.arange(c)).astype(np.float32)
    assert np.array_equal(on_both(formulas.mean, x), numpy_mean(x))
    assert np.array_equal(on_both(formulas.mean, x[:, 0]), numpy_mean(x[:, :1]))
    assert np.array_equal(on_both(formulas.mean, x[:, 0, 0]), x[:, 0, 0])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 35), st.integers(1, 6), st.integers(0, 99))
def test_linear_equals_its_second_form_to_the_bit(n, inputs, outputs, seed):
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((n, inputs)), np.round(rng.standard_normal((outputs, inputs)) * 60)
    scale, bias = rng.random(outputs), rng.standard_normal(outputs)
    assert np.array_equal(on_both(formulas.linear, x, weight, scale, bias), numpy_linear(x, weight, scale, bias))


def test_an_adapter_has_relus_between_its_layers():
    layers = [np.float64([[1.0, -2.0]]), np.ones(1), np.zeros(1)], [np.float64([[3.0]]), np.ones(1), np.ones(1)]
    means = np.float32([[5.0, 2.0], [2.0, 5.0], [np.nan, 0.0]])
    answer = formulas.adapter(np, means, layers)
    assert np.array_equal(answer, [[4.0], [1.0], [np.nan]], equal_nan=True)
    tensors = [[torch.from_numpy(t) for t in layer] for layer in layers]
    assert np.array_equal(formulas.adapter(torch, torch.from_numpy(means), tensors), answer, equal_nan=True)


@pytest.mark.parametrize(("output", "expected"), [("reciprocal", [0.25, 1.0, 4.0]), ("relu", [1e-8, 1e-8, 3.0])])
def test_beta(output, expected):
    assert np.array_equal(on_both(formulas.beta, np.float64([-3.0, 0.0, 3.0]), output), expected)


def test_windows_add_rows_from_left_to_right_then_down():
    padded = np.pad(IMAGE, ((0, 0), (0, 0), (1, 1), (1, 1)))
    pooled = on_both(formulas.avg_pool, padded, (2, 3), (2, 2), (1, 1), count_include_pad=False)
    for i, j in [(0, 0), (3, 2), (6, 5)]:
        rows = range(max(0, 2 * i - 1), min(13, 2 * i + 1))
        columns = range(max(0, 2 * j - 1), min(11, 2 * j + 2))
        total, count = 0.0, 0
        for r in rows:
            row = 0.0
            for c in columns:
                row += float(IMAGE[1, 4, r, c])
                count += 1
            total += row
        assert pooled[1, 4, i, j] == np.float32(total / count)


def test_a_window_that_sees_nothing_is_zero():
    pooled = on_both(formulas.avg_pool, np.pad(IMAGE, 2)[2:5, 2:7], (1, 1), (1, 1), (2, 2), count_include_pad=False)
    assert not pooled[:, :, :2].any() and np.array_equal(pooled[:, :, 2:-2, 2:-2], IMAGE)


@pytest.mark.parametrize(("image", "output_size"), [(IMAGE, (6, 4)), (IMAGE, (1, 1)), (IMAGE[:, :, :2, :3], (4, 5))])
def test_adaptive_windows_cover_the_image(image, output_size):
    ours = on_both(formulas.adaptive_avg_pool, np.ascontiguousarray(image), output_size)
    expected = F.adaptive_avg_pool2d(torch.from_numpy(image), output_size).numpy()
    assert np.allclose(ours, expected, atol=1e-6)


TORCHS = {
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # a NaN is no whole number
@pytest.mark.parametrize("op", formulas.GATES)
def test_gates_are_close_to_torchs_and_let_a_nan_pass(op):
    ours, torchs = on_both(formulas.GATES[op], NUMBERS), TORCHS[op](torch.from_numpy(NUMBERS)).numpy()
    moderate = np.abs(NUMBERS) < 1e30  # torch multiplies before it divides by 6, and overflows
    assert np.allclose(ours[moderate], torchs[moderate], atol=1e-6)
    assert np.isnan(ours[np.isnan(NUMBERS)]).all()


def test_sigmoid_is_within_one_unit_of_float32():
    x = torch.from_numpy(NUMBERS[np.isfinite(NUMBERS)])
    exact = torch.sigmoid(x.double())
    unit = torch.finfo(torch.float32).eps * exact + torch.finfo(torch.float32).smallest_normal
    assert ((formulas.sigmoid(torch, x).double() - exact).abs() <= unit).all()


# Torch's own forms lose the digits of small values to 1 + erf and 1 + tanh, in double too.
EXACT_GELU = {
    "gelu": lambda x: x * torch.special.erfc(-x / math.sqrt(2)) / 2,
    "gelu_tanh": lambda x: x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
}


@pytest.mark.parametrize("op", EXACT_GELU)
def test_gelu_is_within_a_unit_of_float32(op):
    x = torch.linspace(-13, 13, 20_001)
    exact = EXACT_GELU[op](x.double())
    unit = torch.finfo(torch.float32).eps * exact.abs() + torch.finfo(torch.float32).smallest_normal
    assert ((formulas.GATES[op](torch, x).double() - exact).abs() <= unit).all()
    assert torch.allclose(exact, TORCHS[op](x.double()), atol=1e-14)


def test_the_tail_ends_where_float32_does():
    x = torch.tensor([-13.9, -14.2, -15.0, -40.0, -3e38])
    cdf = formulas.gelu(torch, x) / x
    assert 0 < cdf[0] < 1e-43 and cdf[1:].abs().max() <= 2e-45 and not cdf[2:].any()


def test_formulas_have_gradients():
    x = torch.linspace(-4, 4, 48).reshape(1, 3, 4, 4).double().requires_grad_()
    for ours, torchs in (
        (formulas.silu(torch, x), F.silu(x)),
        (formulas.gelu(torch, x), F.gelu(x)),
        (formulas.gelu_tanh(torch, x), F.gelu(x, approximate="tanh")),
        (formulas.adaptive_avg_pool(torch, x, (2, 3)), F.adaptive_avg_pool2d(x, (2, 3))),
        (formulas.avg_pool(torch, x, (2, 2), (1, 1), (0, 0), count_include_pad=True), F.avg_pool2d(x, 2, 1)),
        (
            formulas.linear(torch, x[0, 0], x[0, 1], x[0, 2, 0], x[0, 2, 1]),
            x[0, 0] @ x[0, 1].T * x[0, 2, 0] + x[0, 2, 1],
        ),
    ):
        gradients = [torch.autograd.grad(value.square().sum(), x)[0] for value in (ours, torchs)]
        assert torch.allclose(*gradients, rtol=1e-5, atol=1e-6)
