"""NumPy kernels against direct convolution in Python integers, and against each other, at the edges of their ranges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asqcli.arithmetic.constants import EXACT_FLOAT32
from asqcli.engine.dispatch import NUMPY_KERNELS, make_numpy_kernel
from asqcli.engine.interface import Layer
from asqcli.engine.numpy import matmul
from asqcli.engine.numpy.shift_lut import ShiftLutKernel

LEVELS = {
    "post4": [0, 96, 68, 48, 34, 24, 17, 12],
    "post3 on 7/5": [0, 10, 7, 5],
    "apot4": [0, 10, 8, 6, 4, 3, 2, 1],
    "pot4": [0, 64, 32, 16, 8, 4, 2, 1],
    "uniform8": list(range(128)),
}


def direct(codes, layer):
    """One output at a time, in int64."""
    top, left, bottom, right = layer.padding
    image = np.pad(codes.astype(np.int64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    outputs, per_group, kernel_h, kernel_w = layer.weights.shape
    height, width = layer.output_size(*codes.shape[2:])
    out = np.zeros((len(codes), outputs, height, width), np.int64)
    for o in range(outputs):
        first = o // (outputs // layer.groups) * per_group
        for y in range(height):
            for x in range(width):
                for i in range(kernel_h):
                    for j in range(kernel_w):
                        row = y * layer.stride[0] + i * layer.dilation[0]
                        column = x * layer.stride[1] + j * layer.dilation[1]
                        window = image[:, first : first + per_group, row, column]
                        out[:, o, y, x] += window @ layer.weights[o, :, i, j].astype(np.int64)
    return out


def make_layer(rng, magnitudes, *, channels, outputs, groups, kernel, qmin, qmax, extreme=False, **geometry):
    shape = (outputs, channels // groups, *kernel)
    signs = rng.choice([-1, 1], shape)
    weights = (signs * (max(magnitudes) if extreme else rng.choice(magnitudes, shape))).astype(np.int8)
    bound = max(-qmin, qmax) * int(np.abs(weights.astype(int)).reshape(outputs, -1).sum(axis=1).max())
    return Layer(weights, groups=groups, qmin=qmin, qmax=qmax, largest_sum=bound, **geometry)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_kernel_equals_direct_convolution(data):
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels, outputs = groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 4))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, dilation = draw(pair), draw(st.sampled_from([(1, 1), (2, 1), (1, 3)]))
    height, width = (d * (k - 1) + 1 + draw(st.integers(0, 6)) for d, k in zip(dilation, kernel, strict=True))
    qmin, qmax = draw(st.sampled_from([(0, 15), (0, 3), (-8, 7), (-5, 10), (0, 255), (-128, 127)]))
    layer = make_layer(
        rng, LEVELS[draw(st.sampled_from(list(LEVELS)))], channels=channels, outputs=outputs, groups=groups,
        kernel=kernel, qmin=qmin, qmax=qmax, stride=draw(pair), dilation=dilation,
        padding=draw(st.tuples(*[st.integers(0, 3)] * 4)), extreme=draw(st.booleans()),
    )  # fmt: skip
    codes = rng.integers(qmin, qmax + 1, (2, channels, height, width)).astype(np.float32)
    expected = direct(codes, layer)
    before = codes.copy()
    for name in NUMPY_KERNELS:
        one = make_numpy_kernel(name)
        result = one.accumulate(codes, layer, one.pack(layer))
        assert np.array_equal(result, expected), name
    assert np.array_equal(codes, before), "kernels leave their input alone"


@pytest.mark.parametrize("image_parts", [1, 7])
def test_patches_in_parts_give_the_same(monkeypatch, image_parts):
    rng = np.random.default_rng(0)
    layer = make_layer(rng, LEVELS["post4"], channels=4, outputs=6, groups=2, kernel=(3, 3), qmin=0, qmax=15,
                       stride=(1, 2), dilation=(1, 1), padding=(1, 1, 1, 1))  # fmt: skip
    codes = rng.integers(0, 16, (5, 4, 11, 9)).astype(np.float32)
    monkeypatch.setattr(matmul, "LARGEST_PATCHES", 9 * 2 * 5 * 11 * 2 if image_parts == 1 else 9 * 2 * 5 * 2)
    kernel = make_numpy_kernel("matmul")
    assert np.array_equal(kernel.accumulate(codes, layer, kernel.pack(layer)), direct(codes, layer))


def test_sums_at_the_edge_of_float32_are_exact():
    """All products of one sign: just below 2^24 in float32, above it in double."""
    for channels in (EXACT_FLOAT32 // (255 * 127), EXACT_FLOAT32 // (255 * 127) + 1):
        layer = Layer(np.full((2, channels, 1, 1), 127, np.int8), (1, 1), (0, 0, 0, 0), (1, 1), 1, 0, 255,
                      largest_sum=255 * 127 * channels)  # fmt: skip
        codes = np.full((1, channels, 1, 1), 255, np.float32)
        kernel = make_numpy_kernel("matmul")
        packed = kernel.pack(layer)
        assert packed.dtype == (np.float32 if layer.largest_sum < EXACT_FLOAT32 else np.float64)
        assert kernel.accumulate(codes, layer, packed).astype(np.int64).tolist() == [[[[layer.largest_sum]]] * 2]


def test_even_powers_are_shifts_and_odd_ones_are_looked_up():
    """Eq. 18 for 4-bit POST: 96 is the largest level, 48, 24 and 12 are shifts of it, 68, 34 and 17 are not."""
    weights = np.array(LEVELS["post4"][1:], np.int8).reshape(7, 1, 1, 1)
    packed = ShiftLutKernel().pack(Layer(weights, (1, 1), (0,) * 4, (1, 1), 1, 0, 15, 96 * 15))
    shifts = {int(m.table[1]): m.shift for m in packed.magnitudes}
    assert shifts == {96: 0, 48: 1, 24: 2, 12: 3, 68: None, 34: None, 17: None}


def test_a_layer_of_zeros_gives_zeros():
    layer = Layer(np.zeros((3, 2, 1, 1), np.int8), (1, 1), (0,) * 4, (1, 1), 1, 0, 15, 0)
    for name in NUMPY_KERNELS:
        kernel = make_numpy_kernel(name)
        assert not kernel.accumulate(np.ones((1, 2, 3, 3), np.float32), layer, kernel.pack(layer)).any()
