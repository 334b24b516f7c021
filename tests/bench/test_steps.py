"""Where the time of a native network goes."""

from __future__ import annotations

import numpy as np
import pytest

from asqcli.artifact import nodes
from asqcli.bench.steps import layer_microseconds, measure_steps
from asqcli.engine import Session
from asqcli.engine.dispatch import NATIVE_KERNELS, usable_kernels
from tests.engine.networks import Maker


@pytest.mark.parametrize("kernel", [name for name in NATIVE_KERNELS if name in usable_kernels()])
def test_steps_of_a_network(kernel):
    make = Maker(np.random.default_rng(0), 8)
    same = {"stride": (1, 1), "padding": (1,) * 4, "dilation": (1, 1), "qmin": 0, "qmax": 15}
    value = make.layer(0, (16, 3, 3, 3), groups=1, **same)
    value = make.layer(value, (16, 1, 3, 3), groups=16, channels=16, **same)
    value = make.layer(value, (16, 1, 3, 3), groups=16, channels=16, **same)
    value = make.add(nodes.AdaptiveAvgPool, value, output_size=(1, 1))
    value = make.add(nodes.Reshape, value, shape=(16,))
    make.layer(value, (5, 16), qmin=0, qmax=15)
    network = Session(make.artifact(5), kernel=kernel).network
    layers = layer_microseconds(network)
    nodes_of_layers = [node for node in network.artifact.document.nodes if node.op in ("conv", "linear")]
    assert list(layers) == [node.name for node in nodes_of_layers]
    assert min(layers.values()) > 0
    measured = measure_steps(network)
    steps = {step["step"]: step for step in measured["steps"]}
    # No row sums: the convolution before the mean makes them.
    assert set(steps) == {"conv 3x3 3x8x8 to 16", "depthwise 3x3 16x8x8 to 16", "mean 16x8x8", "linear 16 to 5"}
    assert steps["depthwise 3x3 16x8x8 to 16"]["count"] == 2 and steps["mean 16x8x8"]["gmacs"] is None
    first = steps["conv 3x3 3x8x8 to 16"]
    assert first["gmacs"] == pytest.approx(64 * 16 * 27 / first["microseconds"] / 1e3, rel=0.1, abs=0.06)
    if "vnni" in kernel:
        assert 0 < first["of_peak"] < 1 and measured["peak_gmacs"] > 1
    else:
        assert measured["peak_gmacs"] is None and first["of_peak"] is None
    times = [step["all_microseconds"] for step in measured["steps"]]
    assert times == sorted(times, reverse=True)
