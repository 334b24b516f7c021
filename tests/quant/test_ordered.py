"""Against a second form in NumPy that follows the documented order operation by operation."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asqcli.quant.ordered import ordered_linear, ordered_mean


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
    assert np.array_equal(ordered_mean(torch.from_numpy(x)).numpy(), numpy_mean(x))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 35), st.integers(1, 6), st.integers(0, 99))
def test_linear_equals_its_second_form_to_the_bit(n, inputs, outputs, seed):
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((n, inputs)), np.round(rng.standard_normal((outputs, inputs)) * 60)
    scale, bias = rng.random(outputs), rng.standard_normal(outputs)
    ours = ordered_linear(*(torch.from_numpy(a) for a in (x, weight, scale, bias)))
    assert np.array_equal(ours.numpy(), numpy_linear(x, weight, scale, bias))
