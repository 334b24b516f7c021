"""Zeros have the signs that the format gives them, in every kernel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from asqcli.artifact import nodes, write_artifact
from asqcli.engine import Session
from asqcli.engine.dispatch import usable_kernels
from tests.artifact.reader import Reader
from tests.engine.networks import Maker

SIZE = 6
GEOMETRY = {"stride": (1, 1), "padding": (0,) * 4, "dilation": (1, 1), "groups": 1}
WINDOW = {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0, 1, 0), "dilation": (1, 1)}
STEPS = {
    "relu": {"kind": nodes.Clamp, "low": 0.0, "high": None},
    "negative bounds": {"kind": nodes.Clamp, "low": -1.0, "high": -0.0},
    "max": {"kind": nodes.MaxPool, **WINDOW},
    "average": {"kind": nodes.AvgPool, "kernel_size": (2, 2), "stride": (1, 1), "padding": (0, 1),
                "count_include_pad": False},
    "every pixel": {"kind": nodes.AdaptiveAvgPool, "output_size": (SIZE, SIZE)},
    "mean": {"kind": nodes.AdaptiveAvgPool, "output_size": (1, 1)},
    "leak": {"kind": nodes.LeakyRelu, "negative_slope": -0.5},
    "silu": {"kind": nodes.Gate, "op": "silu"},
    "hard swish": {"kind": nodes.Gate, "op": "hardswish"},
    "gelu": {"kind": nodes.Gate, "op": "gelu"},
}  # fmt: skip


def image(rng) -> np.ndarray:
    numbers = rng.choice(np.float32([0.0, -0.0, 0.0, -0.0, -2.0, -2.0, 1.0]), (3, SIZE, SIZE))
    numbers[0] = -0.0
    return numbers


def assert_same_bits(make: Maker, value: int, numbers: int, seen: np.ndarray) -> None:
    """Make `value` the logits, and compare them in every kernel with what a reader of the text makes of an image."""
    make.add(nodes.Reshape, value, shape=(numbers,))
    artifact = make.artifact(numbers)
    expected = Reader(write_artifact(artifact)).run(seen)
    assert (expected == 0).any()
    for kernel in usable_kernels():
        assert Session(artifact, kernel=kernel).run(seen[None]).tobytes() == expected.tobytes(), kernel


@pytest.mark.parametrize("chosen", STEPS)
def test_of_every_step(chosen):
    rng = np.random.default_rng(0)
    make = Maker(rng, SIZE)
    value = make.add(STEPS[chosen]["kind"], 0, **{k: v for k, v in STEPS[chosen].items() if k != "kind"})
    assert_same_bits(make, value, math.prod(make.nodes[-1].output_shape([(3, SIZE, SIZE)])), image(rng))


@pytest.mark.parametrize("channels", [5, 32])
@pytest.mark.parametrize("pool", [False, True])
def test_of_a_convolution_with_all_that_it_absorbs(channels, pool):
    rng = np.random.default_rng(channels)
    make = Maker(rng, SIZE)
    other = make.layer(0, (channels, 3, 1, 1), qmin=-8, qmax=7, **GEOMETRY)
    value = make.layer(0, (channels, 3, 1, 1), qmin=-8, qmax=7, **GEOMETRY)
    for node in make.nodes:
        make.tensors[node.weights.bias][:] = -0.0
    norm = make.batch_norm(value, channels)
    make.tensors[make.nodes[-1].b][:] = -0.0
    value = make.add(nodes.Clamp, make.add(nodes.Add, norm, make.batch_norm(other, channels)), low=0.0, high=None)
    make.tensors[make.nodes[-3].b][:] = -0.0
    if pool:
        value = make.add(nodes.MaxPool, value, **WINDOW)
    seen = image(rng)
    seen[:, :3] *= 0.0
    assert_same_bits(make, value, channels * SIZE * (SIZE // 2 if pool else SIZE), seen)
