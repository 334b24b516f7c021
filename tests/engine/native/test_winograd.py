"""Winograd's form of 3x3 convolutions: taken where it is exact, and then equal to the specification bit for bit."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asqcli.artifact import nodes
from asqcli.artifact.packing import pack
from asqcli.engine import Session
from asqcli.engine.dispatch import usable_kernels
from asqcli.engine.native import memory, winograd
from asqcli.engine.native.bindings import OP_CONV, compiled_kernels, library
from tests.engine.networks import Maker, assert_equal, keep_before_a_guard

FORMS = [
    # Largest weight, (qmin, qmax), dimensions: at the last values that fit and at the first that do not.
    (14, (0, 15), 2),
    (14, (-8, 7), 2),
    (14, (0, 63), 2),
    (14, (0, 64), 1),
    (15, (0, 15), 1),
    (42, (0, 15), 1),
    (42, (-64, 63), 1),
    (42, (0, 128), 0),
    (43, (0, 15), 0),
]


pytestmark = [pytest.mark.usefixtures("small_networks_are_worth_a_team"), pytest.mark.native]


@pytest.fixture(autouse=True)
def _small_networks_count(monkeypatch):
    monkeypatch.setattr(winograd, "FEWEST_CHANNELS", 4)


def network(rng, size, channels, outputs, largest, bounds, *, adapter=True):
    """A first layer, a 3x3 layer with all that may follow it, and a head; weights at both ends of their range."""
    qmin, qmax = bounds
    make = Maker(rng, size)
    value = make.layer(
        0, (channels, 3, 1, 1), qmin=0, qmax=255, stride=(1, 1), padding=(0,) * 4, dilation=(1, 1), groups=1
    )
    value = make.layer(value, (outputs, channels, 3, 3), qmin=qmin, qmax=qmax, stride=(1, 1), padding=(1, 1, 1, 1),
                       dilation=(1, 1), groups=1, adapter=adapter, channels=channels)  # fmt: skip
    weights = make.nodes[-1].weights
    make.tensors[weights.levels][:] = rng.choice([-largest, largest, 0], 16)
    make.tensors[weights.levels][:2] = -largest, largest
    codes = rng.integers(0, 16, weights.shape).astype(np.uint8)
    codes[0], codes[-1] = 0, 1  # windows that are all of one sign
    make.tensors[weights.codes] = pack(codes, 4)
    value = make.batch_norm(value, outputs)
    if outputs == channels:
        value = make.add(nodes.Add, value, 1)
    value = make.add(nodes.Clamp, value, low=0.0, high=None)
    value = make.add(nodes.AdaptiveAvgPool, value, output_size=(1, 1))
    value = make.add(nodes.Reshape, value, shape=(outputs,))
    make.layer(value, (5, outputs), qmin=-8, qmax=7)
    return make.artifact(5)


def forms(session: Session) -> set[int]:
    """The dimensions of Winograd's form of each 3x3 layer."""
    ops = session.network.plans[0].ops
    return {op.conv.winograd for op in ops if op.kind == OP_CONV and op.conv.kernel_h == 3}


KERNELS = [
    name
    for name, (index, _) in compiled_kernels().items()
    if name in usable_kernels() and library().asq_kernel_winograd(index)
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("largest", "bounds", "dimensions"), FORMS)
def test_the_form_is_taken_exactly_where_it_fits(kernel, largest, bounds, dimensions):
    rng = np.random.default_rng(largest)
    for size, channels, outputs in ((8, 16, 16), (7, 36, 33), (1, 4, 1)):
        artifact = network(rng, size, channels, outputs, largest, bounds)
        assert forms(Session(artifact, kernel=kernel)) == {dimensions}
        assert_equal(artifact, rng.standard_normal((2, 3, size, size)).astype(np.float32))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory protection as on Linux")
@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_beyond_the_buffers_is_touched(kernel, monkeypatch):
    monkeypatch.setattr(memory.Memory, "keep", keep_before_a_guard)
    rng = np.random.default_rng(0)
    for size, channels, outputs, largest in ((7, 4, 17, 14), (8, 20, 5, 42), (1, 16, 16, 14), (15, 12, 33, 42)):
        artifact = network(rng, size, channels, outputs, largest, (0, 15))
        image = rng.standard_normal((1, 3, size, size)).astype(np.float32)
        assert forms(Session(artifact, kernel=kernel)) == {2 if largest == 14 else 1}
        assert np.array_equal(
            Session(artifact, kernel=kernel).run(image), Session(artifact, kernel="matmul").run(image)
        )


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(0, 2**32))
def test_images_around_every_edge_of_the_tiles(data, seed):
    rng, draw = np.random.default_rng(seed), data.draw
    size = draw(st.sampled_from([1, 2, 3, 6, 7, 8, 13, 14, 15, 16, 27, 28, 29, 33]))
    channels, outputs = 4 * draw(st.integers(1, 12)), draw(st.integers(1, 70))
    if draw(st.booleans()):
        outputs = channels
    largest, bounds, _ = draw(st.sampled_from(FORMS))
    artifact = network(rng, size, channels, outputs, largest, bounds, adapter=draw(st.booleans()))
    teams = draw(st.sampled_from([(), (2,), (3,)]))
    assert_equal(artifact, rng.standard_normal((3, 3, size, size)).astype(np.float32), teams)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_transforms_of_weights_convolve(dimensions):
    """Outputs of a tile from products of transforms, beside the sum over the window, in whole numbers."""
    rng = np.random.default_rng(0)
    integers, qmin, code_range = rng.integers(-8, 8, (3, 4, 3, 3)).astype(np.int8), -8, 15
    codes = rng.integers(qmin, qmin + code_range + 1, (4, 4, 4))  # channels, rows, columns
    forward = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    constant = np.array([1, 0, 1, 1]) * code_range
    weights = winograd.transform_weights(integers, dimensions)[..., 0]
    added = winograd.compensation(integers, dimensions, qmin, code_range)
    above = codes - qmin
    if dimensions == 1:
        transformed = np.einsum("tk,cik->tci", forward, above[:, :3]) + constant[:, None, None]
        products = np.einsum("tci,toci->to", transformed, weights)
        tile = np.array([[1, 1, 1, 0], [0, 1, -1, -1]]) @ products
        outputs = [(0, 0), (0, 1)]
    else:
        constants = 2 * code_range * (1 - np.outer([0, 1, 0, 0], [0, 1, 0, 0]))
        transformed = np.einsum("si,tj,cij->stc", forward, forward, above) + constants[..., None]
        assert transformed.min() >= 0 and transformed.max() <= 255
        products = np.einsum("stc,stoc->sto", transformed, weights.reshape(4, 4, 3, 4))
        out = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
        tile = np.einsum("us,vt,sto->uvo", out, out, products).reshape(4, -1)
        outputs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    for k, (y, x) in enumerate(outputs):
        direct = np.einsum("cij,ocij->o", codes[:, y : y + 3, x : x + 3], integers.astype(int))
        doubled = tile[k] + added[k]
        assert not np.any(doubled % 2**dimensions) and np.array_equal(doubled >> dimensions, direct)
