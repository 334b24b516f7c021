"""Leaky ReLU and PReLU in the native kernels, equal to the specification."""

from __future__ import annotations

import numpy as np
import pytest

from asqcli.artifact import nodes
from asqcli.engine.native import bindings, execute, planner
from tests.engine.networks import USABLE, Maker, assert_equal

pytestmark = [pytest.mark.usefixtures("small_networks_are_worth_a_team"), pytest.mark.native]


@pytest.mark.parametrize("channels", [1, 8, 19])
def test_leaks_between_layers(channels):
    """Of images and of features, a slope for each channel and one for all, above 1 and below 0; before an adapter."""
    rng = np.random.default_rng(channels)
    make = Maker(rng, 9)
    one = {"padding": (0,) * 4, "stride": (1, 1), "dilation": (1, 1), "groups": 1}
    codes = {"qmin": -8, "qmax": 7, "adapter": True}
    value = make.layer(0, (channels, 3, 1, 1), **codes | {"adapter": False}, **one)
    make.tensors["slopes"] = rng.uniform(-1, 2, channels).astype(np.float32)
    make.tensors["slope"] = np.float32([0.3])
    value = make.add(nodes.LeakyRelu, value, negative_slope=0.1)
    value = make.layer(value, (channels, channels, 1, 1), **codes, **one)
    value = make.add(nodes.PRelu, value, slope="slopes", slope_per="channel")
    value = make.add(nodes.PRelu, value, slope="slope", slope_per="layer")
    value = make.add(nodes.Reshape, value, shape=(81 * channels,))
    make.tensors["many"] = rng.uniform(-1, 2, 81 * channels).astype(np.float32)
    value = make.add(nodes.PRelu, value, slope="many", slope_per="channel")
    value = make.add(nodes.LeakyRelu, value, negative_slope=-0.5)
    make.layer(value, (4, 81 * channels), **codes)
    artifact = make.artifact(4)
    planner.Plan(artifact, {})
    assert_equal(artifact, rng.standard_normal((2, 3, 9, 9)).astype(np.float32), teams=(2, 3))


def test_a_nan_passes_through():
    make = Maker(np.random.default_rng(0), 15)
    make.add(nodes.Reshape, make.add(nodes.LeakyRelu, 0, negative_slope=0.5), shape=(675,))
    plan = planner.Plan(make.artifact(675), {})
    image = np.resize(np.float32([np.nan, np.inf, -np.inf, 1.0, -1.0]), (1, 3, 15, 15))
    expected = np.resize(np.float32([np.nan, np.inf, -np.inf, 1.0, -0.5]), (1, 675))
    for kernel in USABLE:
        index, _ = bindings.compiled_kernels()[kernel]
        assert np.array_equal(execute.run(plan, index, image), expected, equal_nan=True), kernel
