"""Native kernels, forced by name, equal the specification bit for bit, at every odd size."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asqcli.artifact import Artifact
from asqcli.artifact import document as doc
from asqcli.engine import Session, native, native_library, native_memory, native_plan, native_run, operations
from asqcli.engine.native_library import FOURS, PIXELS
from asqcli.errors import MachineError, UnsupportedError, UsageError
from tests.engine.networks import USABLE, Maker, assert_equal, keep_before_a_guard


@pytest.fixture(autouse=True, scope="module")
def _small_networks_are_worth_a_team():
    before, native.WORTH_A_TEAM = native.WORTH_A_TEAM, 0
    yield
    native.WORTH_A_TEAM = before


ODD = [1, 2, 3, 7, 8, 13, 14, 15, 16, 17, 28, 31, 33]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 2**32))
def test_convolutions_of_every_shape(data, seed):
    draw, rng = data.draw, np.random.default_rng(seed)
    teams = draw(st.sampled_from([(), (), (), (2,), (3,)]))
    extreme = draw(st.booleans())
    qmin, qmax = draw(st.sampled_from([(0, 15), (0, 3), (-8, 7), (-5, 10), (0, 255), (-128, 127)]))
    size = draw(st.sampled_from([1, 2, 7, 13, 14, 16, 17, 31]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 2), (5, 3)]))
    outputs, dilation = draw(st.integers(1, 70)), draw(st.sampled_from([(1, 1), (2, 1), (1, 2)]))
    need = max(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    padding = tuple(draw(st.integers(max(0, (need - size + 1) // 2), 3 + need)) for _ in range(4))
    make = Maker(rng, size)
    value = make.layer(0, (outputs, 3, *kernel), qmin=qmin, qmax=qmax, extreme=extreme, bias=draw(st.booleans()),
                       stride=draw(st.sampled_from([(1, 1), (2, 1), (2, 2)])), padding=padding, dilation=dilation,
                       groups=1)  # fmt: skip
    if draw(st.booleans()):
        value = make.batch_norm(value, outputs)
    # A second one with groups or depthwise, an adapter, a sum, a clamp.
    groups = draw(st.sampled_from([g for g in (1, 2, 5, outputs) if outputs % g == 0]))
    times = draw(st.sampled_from([1, 2])) if groups == outputs else 1
    before = value
    value = make.layer(value, (outputs * times, outputs // groups, 3, 3), qmin=qmin, qmax=qmax, bits=3, extreme=extreme,
                       stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1), groups=groups, bias=draw(st.booleans()),
                       channels=outputs, adapter=draw(st.booleans()))  # fmt: skip
    if draw(st.booleans()):
        value = make.batch_norm(value, outputs * times)
    if times == 1 and draw(st.booleans()):
        value = make.add(doc.Add, "add", value, before)
    value = make.add(doc.Clamp, "clamp", value, low=0.0, high=draw(st.sampled_from([None, 6.0])))
    value = make.add(doc.AdaptiveAvgPool, "adaptive_avg_pool", value, output_size=(1, 1))
    value = make.add(doc.Reshape, "reshape", value, shape=(outputs * times,))
    make.layer(value, (draw(st.integers(1, 33)), outputs * times), qmin=qmin, qmax=qmax, extreme=extreme)
    artifact = make.artifact(make.nodes[-1].weights.shape[0])
    assert_equal(artifact, rng.standard_normal((3, 3, size, size)).astype(np.float32), teams)


@pytest.mark.parametrize(
    ("qmax", "level", "narrow"), [(15, 96, 11), (15, -128, 8), (3, 127, 43), (255, 64, 1), (255, 65, 0), (255, -128, 0)]
)
def test_sums_of_16_bits_at_their_limit(qmax, level, narrow):
    """AVX2 adds the products of so many places in 16 bits: all codes are qmax and all weights the largest."""
    rng = np.random.default_rng(0)
    make = Maker(rng, 9)
    geometry = {"stride": (1, 1), "padding": (1,) * 4, "dilation": (1, 1)}
    value = make.layer(0, (21, 3, 3, 3), qmin=0, qmax=qmax, extreme=True, groups=1, **geometry)
    value = make.add(doc.Clamp, "clamp", value, low=1.0, high=None)
    value = make.layer(value, (21, 1, 3, 3), qmin=0, qmax=qmax, extreme=True, groups=21, channels=21, **geometry)
    value = make.add(doc.Clamp, "clamp", value, low=1.0, high=None)
    value = make.layer(value, (35, 21, 3, 3), qmin=0, qmax=qmax, extreme=True, groups=1, **geometry)
    flat = make.add(doc.Reshape, "reshape", value, shape=(35 * 81,))
    make.layer(flat, (3, 35 * 81), qmin=-8, qmax=7)
    for node in make.nodes[:-1]:
        if isinstance(node, doc.Conv):
            make.tensors[node.weights.levels][:] = level
    artifact = make.artifact(3)
    assert [op.narrow for op in native_plan.Plan(artifact, {}).ops if op.kernel_h == 3] == [narrow] * 3
    assert_equal(artifact, np.abs(rng.standard_normal((2, 3, 9, 9))).astype(np.float32) + 1)


@pytest.mark.parametrize("width", ODD)
def test_every_width_around_the_tile(width):
    """Widths 1 to 33 of the output, and 16, 32, 48 and 64 channels, which are 1 to 4 blocks."""
    rng = np.random.default_rng(width)
    for channels in (16, 32, 48, 64, 80):
        make = Maker(rng, width)
        value = make.layer(0, (channels, 3, 1, 1), qmin=0, qmax=255, bits=8, extreme=True, stride=(1, 1),
                           padding=(0,) * 4, dilation=(1, 1), groups=1)  # fmt: skip
        value = make.layer(value, (channels, channels, 3, 3), qmin=0, qmax=15, extreme=True, stride=(1, 1),
                           padding=(1,) * 4, dilation=(1, 1), groups=1, adapter=True)  # fmt: skip
        value = make.add(doc.MaxPool, "max_pool", value, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1),
                         dilation=(1, 1))  # fmt: skip
        side = (width - 1) // 2 + 1
        value = make.add(doc.Reshape, "reshape", value, shape=(channels * side**2,))
        make.layer(value, (5, channels * side**2), qmin=-8, qmax=7)
        artifact = make.artifact(5)
        images = rng.standard_normal((2, 3, width, width)).astype(np.float32)
        reference = Session(artifact, kernel="matmul").run(images)
        for name in USABLE:
            assert np.array_equal(Session(artifact, kernel=name).run(images), reference), (name, channels)


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
    copies = [op for op in native_plan.Plan(artifact, {}).ops if op.kind == native_library.COPY]
    assert len(copies) == 4, "the slices and the pad are one; then two are joined, and flattened"


def test_a_layer_named_twice_reads_the_image_and_another_value():
    """Both nodes share the weights, but the image comes as planes."""
    rng = np.random.default_rng(0)
    for kernel in ((1, 1), (1, 3), (5, 5)):
        make = Maker(rng, 6)
        padding = (kernel[0] // 2, kernel[1] // 2) * 2
        value = make.layer(
            0, (3, 3, *kernel), qmin=-8, qmax=7, stride=(1, 1), padding=padding, dilation=(1, 1), groups=1
        )
        make.nodes.append(make.nodes[-1].model_copy(update={"name": "again", "inputs": (value,)}))
        flat = make.add(doc.Reshape, "reshape", len(make.nodes), shape=(108,))
        make.layer(flat, (3, 108), qmin=-8, qmax=7)
        assert_equal(make.artifact(3), rng.standard_normal((2, 3, 6, 6)).astype(np.float32))


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
        pools = [op.pool.out_h for op in native_plan.Plan(artifact, {}).ops if op.kind == native_library.CONV]
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


def test_depthwise_rows_far_apart_are_no_fours():
    """Most of what a four of rows holds would be multiplied by zero, and packed with zeros."""
    rng = np.random.default_rng(0)
    for rows, dilation, layout in ((3, 1, FOURS), (3, 3, FOURS), (3, 5, PIXELS), (2, 9, PIXELS), (1, 9, FOURS)):
        make = Maker(rng, 17)
        value = make.layer(0, (3, 1, rows, 3), qmin=-8, qmax=7, stride=(1, 2), padding=(1, 0, 2, 1),
                           dilation=(dilation, 1), groups=3)  # fmt: skip
        value = make.add(doc.AdaptiveAvgPool, "adaptive_avg_pool", value, output_size=(1, 1))
        flat = make.add(doc.Reshape, "reshape", value, shape=(3,))
        make.layer(flat, (3, 3), qmin=-8, qmax=7)
        artifact = make.artifact(3)
        assert native_plan.Plan(artifact, {}).ops[0].layout == layout
        assert_equal(artifact, rng.standard_normal((2, 3, 17, 17)).astype(np.float32), teams=(2,))


@pytest.mark.parametrize("op", native_library.GATES)
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
    native_plan.Plan(artifact, {})
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
    for op in native_library.GATES:
        make = Maker(rng, 15)
        make.add(doc.Reshape, "reshape", make.add(doc.Gate, op, 0), shape=(675,))
        artifact = make.artifact(675)
        expected = Session(artifact, kernel="matmul").run(image)
        for kernel in USABLE:
            assert Session(artifact, kernel=kernel).run(image).tobytes() == expected.tobytes(), (op, kernel)


@pytest.mark.parametrize("op", native_library.GATES)
def test_a_nan_passes_through_a_gate(op):
    make = Maker(np.random.default_rng(0), 15)
    make.add(doc.Reshape, "reshape", make.add(doc.Gate, op, 0), shape=(675,))
    plan = native_plan.Plan(make.artifact(675), {})
    image = np.resize(np.float32([np.nan, np.inf, -np.inf, 1.0, -1.0]), (1, 3, 15, 15))
    with np.errstate(invalid="ignore"):
        expected = operations.gate(op, image).reshape(1, -1)
    assert np.isnan(expected[0, 0])
    for kernel in USABLE:
        place, _ = native_library.compiled_kernels()[kernel]
        assert np.array_equal(native_run.run(plan, place, image), expected, equal_nan=True), kernel


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
        native_plan.Plan(artifact, {})
        assert_equal(artifact, rng.standard_normal((2, 3, 7, 7)).astype(np.float32), teams=(2, 3))


def test_pools_of_large_windows_run_on_numpy():
    make = Maker(np.random.default_rng(0), 65)
    value = make.add(doc.AvgPool, "avg_pool", 0, kernel_size=(64, 65), stride=(1, 1), padding=(0, 0),
                     count_include_pad=True)  # fmt: skip
    make.add(doc.Reshape, "reshape", value, shape=(6,))
    with pytest.raises(native_memory.NotNative, match="a pool of 64x65"):
        native_plan.Plan(make.artifact(6), {})


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
        native_plan.Plan(artifact, {})
        assert_equal(artifact, rng.standard_normal((2, 3, 5, 5)).astype(np.float32), teams=(2,))


def test_weights_that_would_be_mostly_gaps_run_on_numpy():
    """Two outputs of each of many channels: each group of 18 weights would take 576 bytes."""
    rng, channels = np.random.default_rng(0), 2**19
    make = Maker(rng, 1)
    value = make.layer(0, (channels, 3, 1, 1), qmin=-8, qmax=7, bits=1, stride=(1, 1), padding=(0,) * 4,
                       dilation=(1, 1), groups=1)  # fmt: skip
    value = make.layer(value, (2 * channels, 1, 3, 3), qmin=-8, qmax=7, bits=1, stride=(1, 1), padding=(1,) * 4,
                       dilation=(1, 1), groups=channels)  # fmt: skip
    value = make.add(doc.Slice, "slice", value, axis=0, start=0, stop=3, step=1)
    flat = make.add(doc.Reshape, "reshape", value, shape=(3,))
    make.layer(flat, (3, 3), qmin=-8, qmax=7)
    with pytest.raises(native_memory.NotNative, match="of more than 268,435,456 bytes together"):
        native_plan.Plan(make.artifact(3), {})


def inverted_residual(rng, size, channels, *, expanded=32, stride=1, columns=3, **epilogue) -> Artifact:
    """A MobileNet's block behind a first layer: expanded by a 1x1 convolution, depthwise, projected."""
    make = Maker(rng, size)
    one = {"stride": (1, 1), "padding": (0,) * 4, "dilation": (1, 1), "groups": 1}
    value = make.layer(0, (channels, 3, 1, 1), qmin=-8, qmax=7, **one)
    codes = {"qmin": 0, "qmax": 15, "adapter": epilogue.get("adapter", True), "bias": epilogue.get("bias", False)}
    value = make.layer(value, (expanded, channels, 1, 1), **codes, **one)
    if epilogue.get("norm", True):
        value = make.batch_norm(value, expanded)
    value = make.add(doc.Clamp, "clamp", value, low=0.0, high=epilogue.get("high", 6.0))
    value = make.layer(value, (expanded, 1, 3, columns), **codes, stride=(stride, stride), padding=(1,) * 4,
                       dilation=(1, 1), groups=expanded, channels=expanded)  # fmt: skip
    if epilogue.get("norm", True):
        value = make.batch_norm(value, expanded)
    value = make.add(doc.Clamp, "clamp", value, low=0.0, high=epilogue.get("high", 6.0))
    value = make.layer(value, (5, expanded, 1, 1), qmin=-8, qmax=7, **one)
    value = make.add(doc.AdaptiveAvgPool, "adaptive_avg_pool", value, output_size=(1, 1))
    value = make.add(doc.Reshape, "reshape", value, shape=(5,))
    make.layer(value, (4, 5), qmin=-8, qmax=7)
    return make.artifact(4)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 2**32))
def test_inverted_residuals(data, seed):
    """Rows that the widest kernel weaves, of 13 to 45 pixels, and values that are made again instead of kept."""
    draw, rng = data.draw, np.random.default_rng(seed)
    size, channels = draw(st.integers(13, 45)), draw(st.sampled_from([3, 13, 16, 24, 32, 33]))
    artifact = inverted_residual(
        rng, size, channels, expanded=draw(st.sampled_from([16, 24, 32, 48])), stride=draw(st.sampled_from([1, 2])),
        columns=draw(st.sampled_from([2, 3])), adapter=draw(st.booleans()), bias=draw(st.booleans()),
        norm=draw(st.booleans()), high=draw(st.sampled_from([None, 6.0])),
    )  # fmt: skip
    images = rng.standard_normal((2, 3, size, size)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        if draw(st.booleans()):
            make_all_again(patch)
        assert_equal(artifact, images, draw(st.sampled_from([(), (2,), (3,)])))


def make_all_again(patch: pytest.MonkeyPatch) -> None:
    """Let all kernels make values again, of any size."""
    plan = native.Plan
    patch.setattr(native_plan, "LARGE", 0)
    patch.setattr(native, "Plan", lambda *args, **settings: plan(*args, **{**settings, "again": True}))


def test_values_are_made_again_where_they_would_not_stay_in_a_cache(monkeypatch):
    rng = np.random.default_rng(0)
    for size, channels, columns, again in ((150, 16, 3, False), (200, 16, 3, True), (200, 48, 3, False)):
        artifact = inverted_residual(rng, size, channels, expanded=16, columns=columns)
        ops = native_plan.Plan(artifact, {}, again=True).ops
        assert [op.again is not None for op in ops if op.kind == native_library.CONV] == [
            False,
            False,
            again,
            False,
            False,
        ]
        assert not [op for op in native_plan.Plan(artifact, {}).ops if op.again]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory protection as on Linux")
@pytest.mark.parametrize("kernel", USABLE)
def test_nothing_beyond_the_buffers_is_touched(kernel, monkeypatch):
    monkeypatch.setattr(native_memory.Memory, "keep", keep_before_a_guard)
    rng = np.random.default_rng(0)
    for width, channels, groups in ((7, 16, 1), (14, 33, 1), (9, 6, 3), (15, 21, 21), (3, 70, 1)):
        make = Maker(rng, width)
        value = make.layer(0, (channels, 3, 3, 3), qmin=-128, qmax=127, stride=(1, 1), padding=(1,) * 4,
                           dilation=(1, 1), groups=1)  # fmt: skip
        value = make.batch_norm(value, channels)
        value = make.layer(value, (channels, channels // groups, 3, 3), qmin=0, qmax=15, stride=(2, 1),
                           padding=(1,) * 4, dilation=(1, 1), groups=groups, channels=channels,
                           adapter=True)  # fmt: skip
        value = make.add(doc.AdaptiveAvgPool, "adaptive_avg_pool", value, output_size=(1, 1))
        value = make.add(doc.Reshape, "reshape", value, shape=(channels,))
        make.layer(value, (5, channels), qmin=-8, qmax=7, adapter=True)
        assert_one_equal(make.artifact(5), kernel, width)
    for size, channels, stride in ((14, 16, 1), (15, 24, 2), (29, 32, 1)):
        artifact = inverted_residual(rng, size, channels, stride=stride)
        assert_one_equal(artifact, kernel, size)
        make_all_again(monkeypatch)
        assert_one_equal(artifact, kernel, size)


def assert_one_equal(artifact: Artifact, kernel: str, size: int) -> None:
    image = np.random.default_rng(size).standard_normal((1, 3, size, size)).astype(np.float32)
    logits = Session(artifact, kernel=kernel).run(image)
    assert np.array_equal(logits, Session(artifact, kernel="matmul").run(image))


@pytest.mark.parametrize(
    ("kernel", "products", "register", "accumulators", "at_least"),
    [
        ("avx512-vnni", "vpdpbusd", "zmm", 28, 3),  # of one row, of two, of transforms
        ("avx-vnni", "vpdpbusd", "ymm", 12, 1),
        ("avx2", "vpmaddubsw", "ymm", 8, 1),
    ],
)
def test_the_widest_tiles_keep_their_accumulators_in_registers(kernel, products, register, accumulators, at_least):
    """A compiler that stores them in every step makes a kernel up to three times slower."""
    if kernel not in native_library.compiled_kernels() or shutil.which("objdump") is None:
        pytest.skip(f"needs the compiled kernel {kernel} and objdump")
    done = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", native_library.LIBRARY], capture_output=True, text=True, check=True
    )
    # Inner functions have no names here: the tiles are found by their row of products without a branch between them.
    product = re.compile(rf"\t(?:{{vex}} )?{products}\s.*%{register}")
    store = re.compile(rf"vmov\w+\s+%{register}\d+,(?:0x\w+)?\(%rsp|vmov\w+\s+%{register}\d+,-0x\w+\(%rbp")
    tiles = 0
    for part in re.split(r"\tj\w+ .*|\tret", done.stdout):
        lines = part.splitlines()
        places = [k for k, line in enumerate(lines) if product.search(line)]
        if len(places) < accumulators:
            continue
        stores = [line for line in lines[places[0] : places[-1] + 1] if store.search(line)]
        if len(places) == accumulators:
            tiles += 1
            assert not stores
        elif register == "zmm":  # woven rounds, which have no loop inside: a constant now and then
            assert 10 * len(stores) < len(places)
    assert tiles >= at_least


def test_a_network_without_a_native_plan_runs_on_numpy():
    make = Maker(np.random.default_rng(0), 5)
    value = make.layer(0, (4, 3, 1, 1), qmin=-8, qmax=7, stride=(1, 1), padding=(0,) * 4, dilation=(1, 1), groups=1)
    value = make.add(doc.Transpose, "transpose", value, axes=(1, 2))
    value = make.add(doc.Reshape, "reshape", value, shape=(100,))
    make.layer(value, (3, 100), qmin=-8, qmax=7)
    artifact = make.artifact(3)
    session = Session(artifact)
    assert session.kernel == "matmul" and session.run(np.zeros((1, 3, 5, 5), np.float32)).shape == (1, 3)
    if USABLE:
        assert "no step for `transpose`" in session.notice
        with pytest.raises(UnsupportedError, match="has no step for `transpose`"):
            Session(artifact, kernel=USABLE[0])


def tiny_artifact() -> Artifact:
    make = Maker(np.random.default_rng(0), 3)
    value = make.add(doc.Reshape, "reshape", 0, shape=(27,))
    make.layer(value, (3, 27), qmin=-8, qmax=7)
    return make.artifact(3)


def test_names_of_kernels(monkeypatch):
    artifact = tiny_artifact()
    with pytest.raises(UsageError, match="no kernel `matmil`") as raised:
        Session(artifact, kernel="matmil")
    assert raised.value.hint == "did you mean `matmul`?"
    monkeypatch.setattr(native_library, "compiled_kernels", lambda: {"avx2": (0, False), "scalar": (1, True)})
    with pytest.raises(MachineError, match="this processor does not run the kernel `avx2`"):
        Session(artifact, kernel="avx2")
    with pytest.raises(MachineError, match="the kernel `avx512-vnni` was not compiled"):
        Session(artifact, kernel="avx512-vnni")
    assert "no native kernel for this processor" in Session(artifact).notice
    monkeypatch.setattr(native_library, "compiled_kernels", dict)
    session = Session(artifact)
    assert session.kernel == "matmul" and "were not compiled" in session.notice


def test_a_team_that_waits_for_a_core_is_given_up_for_a_while(monkeypatch):
    sleeps, log = iter([0, 9, 9, native.USUAL_SLEEPS + 1, native.USUAL_SLEEPS, 9]), []

    class Library:
        asq_meeting_size = staticmethod(lambda: 64)
        asq_serve = asq_dismiss = staticmethod(lambda *_: None)

        def asq_run(self, kernel, ops, count):
            log.append("alone")

        def asq_run_together(self, kernel, ops, count, threads, meeting):
            log.append(next(sleeps))
            return log[-1]

    monkeypatch.setattr(native, "library", Library)
    team = native.ThreadTeam(2)
    for _ in range(14):
        team.run(0, [])
    assert log == [0, 9, "alone", 9, *["alone"] * 2, 3, *["alone"] * 4, 2, 9, "alone"]
    team.pause, sleeps = native.MOST_ALONE, iter([9])
    team.run(0, [])
    assert team.alone == native.MOST_ALONE


def test_it_is_counted_how_often_a_thread_slept_in_a_meeting():
    """The second thread comes once the first one sleeps."""
    library, nothing, counts = native_library.library(), native_library.Op(kind=-1), []
    place = next(place for place, usable in native_library.compiled_kernels().values() if usable)
    meeting = ctypes.create_string_buffer(library.asq_meeting_size())
    at = ctypes.addressof(meeting)
    first = threading.Thread(target=lambda: counts.append(library.asq_run_together(place, nothing, 1, 2, at)))
    first.start()
    asleep = ctypes.c_int.from_buffer(meeting, 4)  # met.dozing
    while not asleep.value:
        pass
    second = threading.Thread(target=lambda: library.asq_serve(1, at))
    second.start()
    first.join()
    library.asq_dismiss(at)
    second.join()
    assert counts[0] >= 1
