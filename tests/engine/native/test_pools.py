"""Pools in the native kernels, by themselves and in a convolution, equal to the specification."""

from __future__ import annotations

import numpy as np
import pytest

from asqcli.artifact import nodes
from asqcli.engine.interface import NotNative
from asqcli.engine.native import bindings, planner
from tests.engine.networks import Maker, assert_equal

pytestmark = [pytest.mark.usefixtures("small_networks_are_worth_a_team"), pytest.mark.native]


@pytest.mark.parametrize("size", [1, 4, 9, 15])
def test_a_pool_in_a_convolution_is_observed_and_shared(size):
    """Windows that overlap, skip rows or lie in the border altogether; a pool may be larger than its input."""
    rng = np.random.default_rng(size)
    for window, stride, dilation, border in ((1, 1, 1, 3), (3, 2, 1, 1), (2, 5, 1, 4), (3, 1, 2, 5), (2, 7, 3, 3)):
        make = Maker(rng, size)
        value = make.layer(
            0, (49, 3, 3, 3), qmin=-8, qmax=7, stride=(1, 1), padding=(1,) * 4, dilation=(1, 1), groups=1
        )
        value = make.add(nodes.MaxPool, value, kernel_size=(window,) * 2, stride=(stride,) * 2,
                         padding=(border,) * 4, dilation=(dilation,) * 2)  # fmt: skip
        value = make.add(nodes.Clamp, value, low=-9.0, high=None)
        side = (size + 2 * border - dilation * (window - 1) - 1) // stride + 1
        flat = make.add(nodes.Reshape, value, shape=(49 * side**2,))
        make.layer(flat, (3, 49 * side**2), qmin=-8, qmax=7, adapter=True)
        artifact = make.artifact(3)
        pools = [op.conv.pool.out_h for op in planner.Plan(artifact, {}).ops if op.kind == bindings.OP_CONV]
        assert pools == [side, 0]
        assert_equal(artifact, rng.standard_normal((2, 3, size, size)).astype(np.float32), teams=(2, 3))


def test_a_pool_of_a_sum():
    rng = np.random.default_rng(0)
    make = Maker(rng, 9)
    geometry = {"stride": (1, 1), "padding": (1,) * 4, "dilation": (1, 1), "groups": 1}
    values = [make.layer(0, (20, 3, 3, 3), qmin=-8, qmax=7, **geometry) for _ in range(2)]
    value = make.add(nodes.Add, *values)
    value = make.add(nodes.MaxPool, value, kernel_size=(3, 3), stride=(2, 2), padding=(1,) * 4,
                     dilation=(1, 1))  # fmt: skip
    flat = make.add(nodes.Reshape, value, shape=(500,))
    make.layer(flat, (3, 500), qmin=-8, qmax=7)
    assert_equal(make.artifact(3), rng.standard_normal((2, 3, 9, 9)).astype(np.float32), teams=(2,))


@pytest.mark.parametrize("channels", [3, 8, 21])
def test_average_pools(channels):
    """Windows that overlap, skip rows, lie in the border or cover the image; those of an adaptive pool may overlap."""
    rng = np.random.default_rng(channels)
    pools = [
        nodes.AvgPool(name="pool", inputs=(1,), kernel_size=kernel, stride=stride, padding=padding,
                    count_include_pad=include)
        for kernel, stride, padding, include in (
            ((2, 2), (2, 2), (0, 0), True), ((3, 3), (1, 1), (1, 1), True), ((3, 3), (2, 1), (1, 1), False),
            ((2, 5), (3, 2), (1, 2), False), ((7, 7), (1, 1), (0, 0), False),
        )
    ] + [
        nodes.AdaptiveAvgPool(name="pool", inputs=(1,), output_size=size)
        for size in ((2, 3), (6, 6), (7, 5), (10, 1))
    ]  # fmt: skip
    for pool in pools:
        make = Maker(rng, 7)
        make.layer(0, (channels, 3, 1, 1), qmin=-8, qmax=7, stride=(1, 1), padding=(0,) * 4, dilation=(1, 1), groups=1)
        make.nodes.append(pool)
        value = make.layer(2, (4, channels, 1, 1), qmin=-8, qmax=7, adapter=True, stride=(1, 1), padding=(0,) * 4,
                           dilation=(1, 1), groups=1)  # fmt: skip
        value = make.add(nodes.AdaptiveAvgPool, value, output_size=(1, 1))
        value = make.add(nodes.Reshape, value, shape=(4,))
        make.layer(value, (3, 4), qmin=-8, qmax=7)
        artifact = make.artifact(3)
        planner.Plan(artifact, {})
        assert_equal(artifact, rng.standard_normal((2, 3, 7, 7)).astype(np.float32), teams=(2, 3))


def test_pools_of_large_windows_run_on_numpy():
    make = Maker(np.random.default_rng(0), 65)
    value = make.add(nodes.AvgPool, 0, kernel_size=(64, 65), stride=(1, 1), padding=(0, 0),
                     count_include_pad=True)  # fmt: skip
    make.add(nodes.Reshape, value, shape=(6,))
    with pytest.raises(NotNative, match="a pool of 64x65"):
        planner.Plan(make.artifact(6), {})
