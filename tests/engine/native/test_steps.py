"""Steps between convolutions in the native kernels: pools, gates, sums and copies, equal to the specification."""

from __future__ import annotations

import numpy as np
import pytest

from asqcli.artifact import document as doc
from asqcli.engine import Session
from asqcli.engine.native import execute, library, memory, planner
from asqcli.engine.numpy import operations
from tests.engine.networks import USABLE, Maker, assert_equal

pytestmark = pytest.mark.usefixtures("small_networks_are_worth_a_team")


def test_slices_pads_and_concatenations():
    rng = np.random.default_rng(0)
    make = Maker(rng, 9)
    value = make.layer(0, (6, 3, 3, 3), qmin=-8, qmax=7, stride=(1, 1), padding=(1,) * 4, dilation=(1, 1), groups=1)
    cut = make.add(doc.Slice, "slice", value, axis=1, start=1, stop=9, step=2)
    cut = make.add(doc.Slice, "slice", cut, axis=2, start=0, stop=9, step=3)
    cut = make.add(doc.Slice, "slice", cut, axis=0, start=1, stop=5, step=1)
    padded = make.add(doc.Pad, "pad", cut, before=(1, 2, 0), after=(1, 3, 6))
    joined = make.add(doc.Concat, "concat", padded, value, axis=0)
    twice = make.add(doc.Add, "add", joined, joined)
    flat = make.add(doc.Reshape, "reshape", twice, shape=(12 * 81,))
    make.layer(flat, (4, 12 * 81), qmin=-8, qmax=7)
    artifact = make.artifact(4)
    assert_equal(artifact, rng.standard_normal((3, 3, 9, 9)).astype(np.float32), teams=(2, 3))
    copies = [op for op in planner.Plan(artifact, {}).ops if op.kind == library.OP_COPY]
    assert len(copies) == 4, "the slices and the pad are one; then two are joined, and flattened"


@pytest.mark.parametrize("size", [1, 4, 9, 15])
def test_a_pool_in_a_convolution_is_observed_and_shared(size):
    """Windows that overlap, skip rows or lie in the border altogether; a pool may be larger than its input."""
    rng = np.random.default_rng(size)
    for window, stride, dilation, border in ((1, 1, 1, 3), (3, 2, 1, 1), (2, 5, 1, 4), (3, 1, 2, 5), (2, 7, 3, 3)):
        make = Maker(rng, size)
        value = make.layer(
            0, (49, 3, 3, 3), qmin=-8, qmax=7, stride=(1, 1), padding=(1,) * 4, dilation=(1, 1), groups=1
        )
        value = make.add(doc.MaxPool, "max_pool", value, kernel_size=(window,) * 2, stride=(stride,) * 2,
                         padding=(border,) * 4, dilation=(dilation,) * 2)  # fmt: skip
        value = make.add(doc.Clamp, "clamp", value, low=-9.0, high=None)
        side = (size + 2 * border - dilation * (window - 1) - 1) // stride + 1
        flat = make.add(doc.Reshape, "reshape", value, shape=(49 * side**2,))
        make.layer(flat, (3, 49 * side**2), qmin=-8, qmax=7, adapter=True)
        artifact = make.artifact(3)
        pools = [op.pool.out_h for op in planner.Plan(artifact, {}).ops if op.kind == library.OP_CONV]
        assert pools == [side, 0]
        assert_equal(artifact, rng.standard_normal((2, 3, size, size)).astype(np.float32), teams=(2, 3))


def test_a_pool_of_a_sum():
    rng = np.random.default_rng(0)
    make = Maker(rng, 9)
    geometry = {"stride": (1, 1), "padding": (1,) * 4, "dilation": (1, 1), "groups": 1}
    values = [make.layer(0, (20, 3, 3, 3), qmin=-8, qmax=7, **geometry) for _ in range(2)]
    value = make.add(doc.Add, "add", *values)
    value = make.add(doc.MaxPool, "max_pool", value, kernel_size=(3, 3), stride=(2, 2), padding=(1,) * 4,
                     dilation=(1, 1))  # fmt: skip
    flat = make.add(doc.Reshape, "reshape", value, shape=(500,))
    make.layer(flat, (3, 500), qmin=-8, qmax=7)
    assert_equal(make.artifact(3), rng.standard_normal((2, 3, 9, 9)).astype(np.float32), teams=(2,))


def test_a_sum_with_the_end_of_a_long_chain_of_copies():
    rng = np.random.default_rng(0)
    make = Maker(rng, 2)
    value = make.layer(0, (3, 3, 1, 1), qmin=-8, qmax=7, stride=(1, 1), padding=(0,) * 4, dilation=(1, 1), groups=1)
    copied = 0
    for _ in range(1500):
        copied = make.add(doc.Slice, "slice", copied, axis=1, start=0, stop=2, step=1)
    flat = make.add(doc.Reshape, "reshape", make.add(doc.Add, "add", value, copied), shape=(12,))
    make.layer(flat, (3, 12), qmin=-8, qmax=7)
    assert_equal(make.artifact(3), rng.standard_normal((1, 3, 2, 2)).astype(np.float32))


@pytest.mark.parametrize("op", library.GATES)
@pytest.mark.parametrize("channels", [1, 8, 19])
def test_gates_and_products(op, channels):
    """As in squeeze and excitation: a gate of every value, and one number for each channel that multiplies them."""
    rng = np.random.default_rng(channels)
    make = Maker(rng, 9)
    one = {"padding": (0,) * 4, "stride": (1, 1), "dilation": (1, 1), "groups": 1}
    codes = {"qmin": -8, "qmax": 7, "adapter": True}
    value = make.layer(0, (channels, 3, 1, 1), **codes | {"adapter": False}, **one)
    value = make.batch_norm(value, channels)
    make.tensors[make.nodes[-1].g][:] *= 10.0 ** rng.uniform(-40, 4, channels)  # up to overflow of exp, down to zero
    gated = make.add(doc.Gate, op, value)
    factor = make.add(doc.AdaptiveAvgPool, "adaptive_avg_pool", gated, output_size=(1, 1))
    factor = make.layer(factor, (channels, channels, 1, 1), **codes, **one)
    factor = make.add(doc.Gate, op, factor)
    product = make.add(doc.Mul, "mul", gated, factor)
    product = make.add(doc.Mul, "mul", product, value)
    flat = make.add(doc.Reshape, "reshape", product, shape=(81 * channels,))
    make.layer(flat, (4, 81 * channels), **codes)
    artifact = make.artifact(4)
    planner.Plan(artifact, {})
    assert_equal(artifact, rng.standard_normal((2, 3, 9, 9)).astype(np.float32), teams=(2, 3))


def test_gates_of_every_size_of_number():
    """Zeros, the smallest and the largest floats, halves of an exponent's step: the same bits as NumPy's."""
    rng = np.random.default_rng(0)
    special = [
        0.0,
        -0.0,
        1e-45,
        -1e-45,
        3e38,
        -3e38,
        88.0,
        -104.0,
        700.0,
        -745.0,
        3.0,
        -3.0,
        1.5 * np.log(2),
        2.5 * np.log(2),
    ]
    numbers = np.concatenate([special, rng.standard_normal(500) * 10.0 ** rng.uniform(-10, 3, 500)])
    image = np.resize(numbers, (1, 3, 15, 15)).astype(np.float32)
    for op in library.GATES:
        make = Maker(rng, 15)
        make.add(doc.Reshape, "reshape", make.add(doc.Gate, op, 0), shape=(675,))
        artifact = make.artifact(675)
        expected = Session(artifact, kernel="matmul").run(image)
        for kernel in USABLE:
            assert Session(artifact, kernel=kernel).run(image).tobytes() == expected.tobytes(), (op, kernel)


@pytest.mark.parametrize("op", library.GATES)
def test_a_nan_passes_through_a_gate(op):
    make = Maker(np.random.default_rng(0), 15)
    make.add(doc.Reshape, "reshape", make.add(doc.Gate, op, 0), shape=(675,))
    plan = planner.Plan(make.artifact(675), {})
    image = np.resize(np.float32([np.nan, np.inf, -np.inf, 1.0, -1.0]), (1, 3, 15, 15))
    with np.errstate(invalid="ignore"):
        expected = operations.gate(op, image).reshape(1, -1)
    assert np.isnan(expected[0, 0])
    for kernel in USABLE:
        index, _ = library.compiled_kernels()[kernel]
        assert np.array_equal(execute.run(plan, index, image), expected, equal_nan=True), kernel


@pytest.mark.parametrize("channels", [3, 8, 21])
def test_average_pools(channels):
    """Windows that overlap, skip rows, lie in the border or cover the image; those of an adaptive pool may overlap."""
    rng = np.random.default_rng(channels)
    pools = [
        doc.AvgPool(op="avg_pool", name="pool", inputs=(1,), kernel_size=kernel, stride=stride, padding=padding,
                    count_include_pad=include)
        for kernel, stride, padding, include in (
            ((2, 2), (2, 2), (0, 0), True), ((3, 3), (1, 1), (1, 1), True), ((3, 3), (2, 1), (1, 1), False),
            ((2, 5), (3, 2), (1, 2), False), ((7, 7), (1, 1), (0, 0), False),
        )
    ] + [
        doc.AdaptiveAvgPool(op="adaptive_avg_pool", name="pool", inputs=(1,), output_size=size)
        for size in ((2, 3), (6, 6), (7, 5), (10, 1))
    ]  # fmt: skip
    for pool in pools:
        make = Maker(rng, 7)
        make.layer(0, (channels, 3, 1, 1), qmin=-8, qmax=7, stride=(1, 1), padding=(0,) * 4, dilation=(1, 1), groups=1)
        make.nodes.append(pool)
        value = make.layer(2, (4, channels, 1, 1), qmin=-8, qmax=7, adapter=True, stride=(1, 1), padding=(0,) * 4,
                           dilation=(1, 1), groups=1)  # fmt: skip
        value = make.add(doc.AdaptiveAvgPool, "adaptive_avg_pool", value, output_size=(1, 1))
        value = make.add(doc.Reshape, "reshape", value, shape=(4,))
        make.layer(value, (3, 4), qmin=-8, qmax=7)
        artifact = make.artifact(3)
        planner.Plan(artifact, {})
        assert_equal(artifact, rng.standard_normal((2, 3, 7, 7)).astype(np.float32), teams=(2, 3))


def test_pools_of_large_windows_run_on_numpy():
    make = Maker(np.random.default_rng(0), 65)
    value = make.add(doc.AvgPool, "avg_pool", 0, kernel_size=(64, 65), stride=(1, 1), padding=(0, 0),
                     count_include_pad=True)  # fmt: skip
    make.add(doc.Reshape, "reshape", value, shape=(6,))
    with pytest.raises(memory.NotNative, match="a pool of 64x65"):
        planner.Plan(make.artifact(6), {})


def shuffle(make: Maker, value: int, shape: tuple[int, int, int], groups: int) -> int:
    channels, *image = shape
    value = make.add(doc.Reshape, "reshape", value, shape=(groups, channels // groups, *image))
    value = make.add(doc.Transpose, "transpose", value, axes=(0, 1))
    return make.add(doc.Reshape, "reshape", value, shape=shape)


def test_channel_shuffles():
    rng = np.random.default_rng(0)
    for channels, groups in ((4, 2), (48, 3), (6, 6), (5, 1)):
        make = Maker(rng, 5)
        before = make.layer(
            0, (channels, 3, 3, 3), qmin=-8, qmax=7, stride=(1, 1), padding=(1,) * 4, dilation=(1, 1), groups=1
        )
        value = shuffle(make, before, (channels, 5, 5), groups)
        value = make.add(doc.Add, "add", value, before)
        value = make.layer(value, (channels, 1, 3, 3), qmin=-8, qmax=7, adapter=True, channels=channels, stride=(1, 1),
                           padding=(1,) * 4, dilation=(1, 1), groups=channels)  # fmt: skip
        value = shuffle(make, value, (channels, 5, 5), groups)
        flat = make.add(doc.Reshape, "reshape", value, shape=(25 * channels,))
        make.layer(flat, (3, 25 * channels), qmin=-8, qmax=7)
        artifact = make.artifact(3)
        planner.Plan(artifact, {})
        assert_equal(artifact, rng.standard_normal((2, 3, 5, 5)).astype(np.float32), teams=(2,))
