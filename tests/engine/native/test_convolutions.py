"""Native kernels, forced by name, equal the specification bit for bit, at every odd size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asqcli.artifact import nodes
from asqcli.engine import Session
from asqcli.engine.interface import NotNative
from asqcli.engine.native import planner
from asqcli.engine.native.bindings import LAYOUT_PIXELS, LAYOUT_ROW_QUADS, OP_CONV
from tests.engine.networks import USABLE, Maker, assert_equal

pytestmark = [pytest.mark.usefixtures("small_networks_are_worth_a_team"), pytest.mark.native]


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
        value = make.add(nodes.Add, value, before)
    value = make.add(nodes.Clamp, value, low=0.0, high=draw(st.sampled_from([None, 6.0])))
    value = make.add(nodes.AdaptiveAvgPool, value, output_size=(1, 1))
    value = make.add(nodes.Reshape, value, shape=(outputs * times,))
    make.layer(value, (draw(st.integers(1, 33)), outputs * times), qmin=qmin, qmax=qmax, extreme=extreme)
    artifact = make.artifact(make.nodes[-1].weights.shape[0])
    assert_equal(artifact, rng.standard_normal((3, 3, size, size)).astype(np.float32), teams)


@pytest.mark.parametrize(
    ("qmax", "level", "taps"), [(15, 96, 11), (15, -128, 8), (3, 127, 43), (255, 64, 1), (255, 65, 0), (255, -128, 0)]
)
def test_sums_of_16_bits_at_their_limit(qmax, level, taps):
    """AVX2 adds the products of so many taps in 16 bits: all codes are qmax and all weights the largest."""
    rng = np.random.default_rng(0)
    make = Maker(rng, 9)
    geometry = {"stride": (1, 1), "padding": (1,) * 4, "dilation": (1, 1)}
    value = make.layer(0, (21, 3, 3, 3), qmin=0, qmax=qmax, extreme=True, groups=1, **geometry)
    value = make.add(nodes.Clamp, value, low=1.0, high=None)
    value = make.layer(value, (21, 1, 3, 3), qmin=0, qmax=qmax, extreme=True, groups=21, channels=21, **geometry)
    value = make.add(nodes.Clamp, value, low=1.0, high=None)
    value = make.layer(value, (35, 21, 3, 3), qmin=0, qmax=qmax, extreme=True, groups=1, **geometry)
    flat = make.add(nodes.Reshape, value, shape=(35 * 81,))
    make.layer(flat, (3, 35 * 81), qmin=-8, qmax=7)
    for node in make.nodes[:-1]:
        if isinstance(node, nodes.Conv):
            make.tensors[node.weights.levels][:] = level
    artifact = make.artifact(3)
    convs = [op.conv for op in planner.Plan(artifact, {}).ops if op.kind == OP_CONV]
    assert [conv.int16_taps for conv in convs if conv.kernel_h == 3] == [taps] * 3
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
        value = make.add(nodes.MaxPool, value, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1),
                         dilation=(1, 1))  # fmt: skip
        side = (width - 1) // 2 + 1
        value = make.add(nodes.Reshape, value, shape=(channels * side**2,))
        make.layer(value, (5, channels * side**2), qmin=-8, qmax=7)
        artifact = make.artifact(5)
        images = rng.standard_normal((2, 3, width, width)).astype(np.float32)
        reference = Session(artifact, kernel="matmul").run(images)
        for name in USABLE:
            assert np.array_equal(Session(artifact, kernel=name).run(images), reference), (name, channels)


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
        flat = make.add(nodes.Reshape, len(make.nodes), shape=(108,))
        make.layer(flat, (3, 108), qmin=-8, qmax=7)
        assert_equal(make.artifact(3), rng.standard_normal((2, 3, 6, 6)).astype(np.float32))


def test_depthwise_rows_far_apart_are_no_quads():
    """Most of what a quad of rows holds would be multiplied by zero, and packed with zeros."""
    rng = np.random.default_rng(0)
    for rows, dilation, layout in (
        (3, 1, LAYOUT_ROW_QUADS),
        (3, 3, LAYOUT_ROW_QUADS),
        (3, 5, LAYOUT_PIXELS),
        (2, 9, LAYOUT_PIXELS),
        (1, 9, LAYOUT_ROW_QUADS),
    ):
        make = Maker(rng, 17)
        value = make.layer(0, (3, 1, rows, 3), qmin=-8, qmax=7, stride=(1, 2), padding=(1, 0, 2, 1),
                           dilation=(dilation, 1), groups=3)  # fmt: skip
        value = make.add(nodes.AdaptiveAvgPool, value, output_size=(1, 1))
        flat = make.add(nodes.Reshape, value, shape=(3,))
        make.layer(flat, (3, 3), qmin=-8, qmax=7)
        artifact = make.artifact(3)
        assert planner.Plan(artifact, {}).ops[0].conv.layout == layout
        assert_equal(artifact, rng.standard_normal((2, 3, 17, 17)).astype(np.float32), teams=(2,))


def test_weights_that_would_be_mostly_gaps_run_on_numpy():
    """Two outputs of each of many channels: each group of 18 weights would take 576 bytes."""
    rng, channels = np.random.default_rng(0), 2**19
    make = Maker(rng, 1)
    value = make.layer(0, (channels, 3, 1, 1), qmin=-8, qmax=7, bits=1, stride=(1, 1), padding=(0,) * 4,
                       dilation=(1, 1), groups=1)  # fmt: skip
    value = make.layer(value, (2 * channels, 1, 3, 3), qmin=-8, qmax=7, bits=1, stride=(1, 1), padding=(1,) * 4,
                       dilation=(1, 1), groups=channels)  # fmt: skip
    value = make.add(nodes.Slice, value, axis=0, start=0, stop=3, step=1)
    flat = make.add(nodes.Reshape, value, shape=(3,))
    make.layer(flat, (3, 3), qmin=-8, qmax=7)
    with pytest.raises(NotNative, match="of more than 268,435,456 bytes together"):
        planner.Plan(make.artifact(3), {})
