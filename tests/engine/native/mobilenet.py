"""A block of a MobileNet, whose values the widest kernel rather recomputes than stores."""

from __future__ import annotations

import pytest

from asqcli.artifact import Artifact, nodes
from asqcli.engine.native import convolutions, network
from tests.engine.networks import Maker


def inverted_residual(rng, size, channels, *, expanded=32, stride=1, columns=3, **epilogue) -> Artifact:
    """A MobileNet's block behind a first layer: expanded by a 1x1 convolution, depthwise, projected."""
    make = Maker(rng, size)
    one = {"stride": (1, 1), "padding": (0,) * 4, "dilation": (1, 1), "groups": 1}
    value = make.layer(0, (channels, 3, 1, 1), qmin=-8, qmax=7, **one)
    codes = {"qmin": 0, "qmax": 15, "adapter": epilogue.get("adapter", True), "bias": epilogue.get("bias", False)}
    value = make.layer(value, (expanded, channels, 1, 1), **codes, **one)
    if epilogue.get("norm", True):
        value = make.batch_norm(value, expanded)
    value = make.add(nodes.Clamp, value, low=0.0, high=epilogue.get("high", 6.0))
    value = make.layer(value, (expanded, 1, 3, columns), **codes, stride=(stride, stride), padding=(1,) * 4,
                       dilation=(1, 1), groups=expanded, channels=expanded)  # fmt: skip
    if epilogue.get("norm", True):
        value = make.batch_norm(value, expanded)
    value = make.add(nodes.Clamp, value, low=0.0, high=epilogue.get("high", 6.0))
    value = make.layer(value, (5, expanded, 1, 1), qmin=-8, qmax=7, **one)
    value = make.add(nodes.AdaptiveAvgPool, value, output_size=(1, 1))
    value = make.add(nodes.Reshape, value, shape=(5,))
    make.layer(value, (4, 5), qmin=-8, qmax=7)
    return make.artifact(4)


def recompute_all(patch: pytest.MonkeyPatch) -> None:
    """Let all kernels recompute values of any size."""
    plan = network.Plan
    patch.setattr(convolutions, "LARGE", 0)
    patch.setattr(network, "Plan", lambda *args, **settings: plan(*args, **{**settings, "recompute": True}))
