"""Gates and products in the native kernels, equal to the specification."""

from __future__ import annotations

import numpy as np
import pytest

from asqcli.artifact import nodes
from asqcli.engine import Session
from asqcli.engine.native import bindings, execute, planner
from asqcli.engine.numpy import operations
from tests.engine.networks import USABLE, Maker, assert_equal

pytestmark = [pytest.mark.usefixtures("small_networks_are_worth_a_team"), pytest.mark.native]


@pytest.mark.parametrize("op", bindings.GATES)
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
    gated = make.add(nodes.Gate, value, op=op)
    factor = make.add(nodes.AdaptiveAvgPool, gated, output_size=(1, 1))
    factor = make.layer(factor, (channels, channels, 1, 1), **codes, **one)
    factor = make.add(nodes.Gate, factor, op=op)
    product = make.add(nodes.Mul, gated, factor)
    product = make.add(nodes.Mul, product, value)
    flat = make.add(nodes.Reshape, product, shape=(81 * channels,))
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
    for op in bindings.GATES:
        make = Maker(rng, 15)
        make.add(nodes.Reshape, make.add(nodes.Gate, 0, op=op), shape=(675,))
        artifact = make.artifact(675)
        expected = Session(artifact, kernel="matmul").run(image)
        for kernel in USABLE:
            assert Session(artifact, kernel=kernel).run(image).tobytes() == expected.tobytes(), (op, kernel)


@pytest.mark.parametrize("op", bindings.GATES)
def test_a_nan_passes_through_a_gate(op):
    make = Maker(np.random.default_rng(0), 15)
    make.add(nodes.Reshape, make.add(nodes.Gate, 0, op=op), shape=(675,))
    plan = planner.Plan(make.artifact(675), {})
    image = np.resize(np.float32([np.nan, np.inf, -np.inf, 1.0, -1.0]), (1, 3, 15, 15))
    with np.errstate(invalid="ignore"):
        expected = operations.gate(op, image).reshape(1, -1)
    assert np.isnan(expected[0, 0])
    for kernel in USABLE:
        index, _ = bindings.compiled_kernels()[kernel]
        assert np.array_equal(execute.run(plan, index, image), expected, equal_nan=True), kernel
