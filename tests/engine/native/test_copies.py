"""Slices, pads, concatenations and channel shuffles in the native kernels, equal to the specification."""

from __future__ import annotations

import numpy as np
import pytest

from asqcli.artifact import nodes
from asqcli.engine.native import bindings, planner
from tests.engine.networks import Maker, assert_equal

pytestmark = [pytest.mark.usefixtures("small_networks_are_worth_a_team"), pytest.mark.native]


def test_slices_pads_and_concatenations():
    rng = np.random.default_rng(0)
    make = Maker(rng, 9)
    value = make.layer(0, (6, 3, 3, 3), qmin=-8, qmax=7, stride=(1, 1), padding=(1,) * 4, dilation=(1, 1), groups=1)
    cut = make.add(nodes.Slice, value, axis=1, start=1, stop=9, step=2)
    cut = make.add(nodes.Slice, cut, axis=2, start=0, stop=9, step=3)
    cut = make.add(nodes.Slice, cut, axis=0, start=1, stop=5, step=1)
    padded = make.add(nodes.Pad, cut, before=(1, 2, 0), after=(1, 3, 6))
    joined = make.add(nodes.Concat, padded, value, axis=0)
    twice = make.add(nodes.Add, joined, joined)
    flat = make.add(nodes.Reshape, twice, shape=(12 * 81,))
    make.layer(flat, (4, 12 * 81), qmin=-8, qmax=7)
    artifact = make.artifact(4)
    assert_equal(artifact, rng.standard_normal((3, 3, 9, 9)).astype(np.float32), teams=(2, 3))
    copies = [op for op in planner.Plan(artifact, {}).ops if op.kind == bindings.OP_COPY]
    assert len(copies) == 4, "the slices and the pad are one; then two are joined, and flattened"


def test_a_sum_with_the_end_of_a_long_chain_of_copies():
    rng = np.random.default_rng(0)
    make = Maker(rng, 2)
    value = make.layer(0, (3, 3, 1, 1), qmin=-8, qmax=7, stride=(1, 1), padding=(0,) * 4, dilation=(1, 1), groups=1)
    copied = 0
    for _ in range(1500):
        copied = make.add(nodes.Slice, copied, axis=1, start=0, stop=2, step=1)
    flat = make.add(nodes.Reshape, make.add(nodes.Add, value, copied), shape=(12,))
    make.layer(flat, (3, 12), qmin=-8, qmax=7)
    assert_equal(make.artifact(3), rng.standard_normal((1, 3, 2, 2)).astype(np.float32))


def test_pixels_in_rows_of_another_length():
    """The mean of an image as one row adds in another order than that of the image: their sums of rows are apart."""
    rng = np.random.default_rng(0)
    make = Maker(rng, 5)
    image = make.layer(0, (6, 3, 1, 1), qmin=-8, qmax=7, stride=(1, 1), padding=(0,) * 4, dilation=(1, 1), groups=1)
    row, pixels = (make.add(nodes.Reshape, image, shape=shape) for shape in ((6, 1, 25), (6, 25)))
    back = make.add(nodes.Reshape, make.add(nodes.Clamp, pixels, low=0.0, high=None), shape=(6, 5, 5))
    means = [make.add(nodes.AdaptiveAvgPool, value, output_size=(1, 1)) for value in (image, row, back)]
    cut = make.add(nodes.Slice, pixels, axis=1, start=3, stop=20, step=4)
    joined = make.add(nodes.Concat, pixels, cut, axis=1)
    largest = make.add(
        nodes.MaxPool, make.add(nodes.Reshape, joined, shape=(6, 30, 1)), kernel_size=(30, 1), stride=(1, 1),
        padding=(0,) * 4, dilation=(1, 1),
    )  # fmt: skip
    together = make.add(nodes.Concat, *means, largest, axis=0)
    make.layer(make.add(nodes.Reshape, together, shape=(24,)), (4, 24), qmin=-8, qmax=7)
    artifact = make.artifact(4)
    planner.Plan(artifact, {})
    assert_equal(artifact, rng.standard_normal((3, 3, 5, 5)).astype(np.float32), teams=(2,))


def shuffle(make: Maker, value: int, shape: tuple[int, int, int], groups: int) -> int:
    channels, *image = shape
    value = make.add(nodes.Reshape, value, shape=(groups, channels // groups, *image))
    value = make.add(nodes.Transpose, value, axes=(0, 1))
    return make.add(nodes.Reshape, value, shape=shape)


def test_channel_shuffles():
    rng = np.random.default_rng(0)
    for channels, groups in ((4, 2), (48, 3), (6, 6), (5, 1)):
        make = Maker(rng, 5)
        before = make.layer(
            0, (channels, 3, 3, 3), qmin=-8, qmax=7, stride=(1, 1), padding=(1,) * 4, dilation=(1, 1), groups=1
        )
        value = shuffle(make, before, (channels, 5, 5), groups)
        value = make.add(nodes.Add, value, before)
        value = make.layer(value, (channels, 1, 3, 3), qmin=-8, qmax=7, adapter=True, channels=channels, stride=(1, 1),
                           padding=(1,) * 4, dilation=(1, 1), groups=channels)  # fmt: skip
        value = shuffle(make, value, (channels, 5, 5), groups)
        flat = make.add(nodes.Reshape, value, shape=(25 * channels,))
        make.layer(flat, (3, 25 * channels), qmin=-8, qmax=7)
        artifact = make.artifact(3)
        planner.Plan(artifact, {})
        assert_equal(artifact, rng.standard_normal((2, 3, 5, 5)).astype(np.float32), teams=(2,))
