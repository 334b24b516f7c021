"""The other engines: that they run the network that they are given, and that a missing one is told."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
import torch

from asqcli.bench.peers import PEERS, Float, NoPeer, build_peers, float_network
from asqcli.models import timm_networks
from asqcli.models.registry import build_model
from asqcli.overhead.count import count_network

pytestmark = pytest.mark.slow

NEEDED = {
    "onnxruntime-float": ("onnx", "onnxruntime"),
    "onnxruntime-int8": ("onnx", "onnxruntime"),
    "openvino-float": ("onnx", "openvino"),
    "openvino-int8": ("onnx", "onnxruntime", "openvino"),
}


@pytest.fixture
def network(tiny_net, tmp_path):
    inputs = np.random.default_rng(0).standard_normal((2, 3, 16, 16), dtype=np.float32)
    return Float(tiny_net.requires_grad_(False), inputs, 1, tmp_path)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_computes_the_float_network(name, network, capfd):
    if name == "torch-compile" and not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    for package in NEEDED.get(name, ()):
        pytest.importorskip(package)
    running, missing = build_peers(network, {name: PEERS[name]})
    assert not missing
    expected = network.model(torch.from_numpy(network.inputs)).numpy()
    for _ in range(2):
        difference = np.abs(running[name]() - expected).max()
    # Calibrated on this very batch, 8 bits are off by a few of 255 steps; float engines by another order of their sums.
    assert difference < (0.1 if name.endswith("int8") else 1e-4) * np.abs(expected).max()
    assert name.endswith("int8") == (difference > 1e-4 * np.abs(expected).max())
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "openvino"])
def test_a_package_that_is_not_installed_is_named(package, network, monkeypatch):
    for other in {"onnx", "onnxruntime", "openvino"} - {package}:
        pytest.importorskip(other)
    monkeypatch.setitem(sys.modules, package, None)
    told = []
    running, missing = build_peers(network, {n: m for n, m in PEERS.items() if n != "torch-compile"}, told.append)
    assert told == [n for n in PEERS if n != "torch-compile"]
    assert set(missing) == {name for name in told if package in NEEDED.get(name, ())} == set(told) - set(running)
    assert set(missing.values()) == {f"`{package}` is not installed: pip install 'asqcli[bench]'"}


def test_a_peer_that_dies_takes_nobody_along(network, tmp_path, monkeypatch):
    for package in NEEDED["openvino-float"]:
        pytest.importorskip(package)
    (tmp_path / "openvino.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # only read by the process that tries
    running, missing = build_peers(network, {"openvino-float": PEERS["openvino-float"]})
    assert not running and missing == {"openvino-float": "it dies of this network (signal 11)"}


def test_a_peer_that_raises_or_answers_wrongly_is_missing(network):
    def broken(_):
        raise RuntimeError("no such instruction\nand more")

    running, missing = build_peers(network, {"broken": broken, "short": lambda _: lambda: np.zeros((1, 10))})
    assert running == {}
    assert missing == {
        "broken": "RuntimeError: no such instruction",
        "short": "it returns (1, 10) for 2 images",
    }


def test_the_float_network_is_that_of_the_file(tmp_path, monkeypatch):
    multiply_adds = count_network(build_model("resnet20", 7), 32).multiply_adds
    model = float_network("resnet20", None, classes=7, image_size=32, multiply_adds=multiply_adds)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    with torch.no_grad():  # settled batch norms: values neither fade nor grow
        assert 1e-3 < model(torch.randn(4, 3, 32, 32)).std() < 1e3
    for name, text in (("resnet20", "they are not the same"), ("tinynet", "`tinynet` is no network that asq knows"),
                       ("shop:net", "the factory `shop:net`: name it with --model")):  # fmt: skip
        with pytest.raises(NoPeer, match=text):
            float_network(name, None, classes=10, image_size=32, multiply_adds=multiply_adds)
    (tmp_path / "bench_shop.py").write_text("from torch import nn\ndef net(): return nn.Sequential(nn.Conv2d(3, 4, 3), "
                                            "nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = float_network("shop:net", "bench_shop:net", classes=4, image_size=8, multiply_adds=36 * 108)
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 4)


def test_a_network_of_timm_without_timm(monkeypatch):
    monkeypatch.setattr(timm_networks, "find_spec", lambda _: None)
    with pytest.raises(NoPeer, match=r"needs the package timm: pip install 'asqcli\[timm\]'"):
        float_network("timm:test_resnet", None, classes=10, image_size=32, multiply_adds=1)
