"""The same architecture in other engines, with random weights: the time of a run does not depend on their values.

PyTorch runs the float network as it is, and compiled with its weights frozen. ONNX Runtime runs the ONNX file that
PyTorch exports, and the 8-bit one that its own static quantizer makes of it: unsigned activations, signed weights with
a scale for each channel. OpenVINO runs the same two files.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from asqcli.bench.quiet import quiet
from asqcli.engine.dispatch import usable_kernels
from asqcli.errors import AsqError, MachineError, UsageError, first_line
from asqcli.models.names import is_factory
from asqcli.nn.modes import to_evaluation

if TYPE_CHECKING:
    from asqcli.overhead.count import Network

Run = Callable[[], np.ndarray]

INPUT = "input"
INSTALL = "pip install 'asqcli[bench]'"
PACKAGES = ("asqcli", "numpy", "torch", "torchvision", "onnx", "onnxruntime", "openvino")


class NoPeer(Exception):
    """The peers of a network cannot be had; the text says why."""


@dataclass(frozen=True)
class Float:
    """The float network and what it is run on.

    Attributes:
        model: in evaluation mode.
        inputs: (N, 3, height, width) float32.
        threads: that each peer may use.
        folder: for files, the caller's to remove.
    """

    model: nn.Module
    inputs: np.ndarray
    threads: int
    folder: Path

    @cached_property
    def onnx(self) -> Path:
        """The network as an ONNX file."""
        _need("onnx", "onnx")
        path = self.folder / "float.onnx"
        with torch.no_grad():
            torch.onnx.export(
                self.model, (torch.from_numpy(self.inputs),), str(path), input_names=[INPUT], dynamo=False
            )
        return path

    @cached_property
    def quantized_onnx(self) -> Path:
        """The network in 8 bits, as ONNX Runtime quantizes it: weights of 7 where products of 8 would saturate."""
        quantization = _need("onnxruntime.quantization", "onnx", "onnxruntime")
        shaped = _need("onnxruntime.quantization.shape_inference", "onnx", "onnxruntime")
        ready, path = self.folder / "ready.onnx", self.folder / "int8.onnx"
        shaped.quant_pre_process(str(self.onnx), str(ready), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(ready),
            str(path),
            _Once({INPUT: self.inputs}),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Without VNNI it sums two products in 16 bits.
            reduce_range=not any("vnni" in kernel for kernel in usable_kernels()),
        )
        return path


class _Once:
    """Calibration data of one batch."""

    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self.feeds = [feed]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.feeds.pop() if self.feeds else None


def float_network(name: str, factory: str | None, *, classes: int, image_size: int, multiply_adds: int) -> nn.Module:
    """Return the architecture that a file was exported from, with random weights, in evaluation mode.

    Args:
        name: of the network, as the file tells it; a factory is never imported because a file names it.
        factory: what the user calls the network, or None.
        multiply_adds: of the exported network for one image; another number is another network.
    Raises:
        NoPeer: it cannot be built, or is not that network.
    """
    from asqcli.models.meta import build_on_meta
    from asqcli.models.registry import build_model, require_known
    from asqcli.overhead.count import count_network

    if factory is None and is_factory(name):
        raise NoPeer(f"the network comes from the factory `{name}`: name it with --model")
    wanted = factory or name
    try:
        require_known(wanted)
    except UsageError as error:
        raise NoPeer(f"`{name}` is no network that asq knows: name the factory that makes it with --model") from error
    except MachineError as error:
        raise NoPeer(f"{error.message}: {error.hint}") from error
    try:
        if not is_factory(wanted):  # counted before there is memory for its weights
            _require_same(
                count_network(build_on_meta(wanted, classes, image_size=image_size), image_size), multiply_adds
            )
        model = build_model(wanted, classes, image_size=image_size).cpu().float()
        to_evaluation(model)
        _require_same(count_network(model, image_size), multiply_adds)
    except AsqError as error:
        raise NoPeer(f"no float network to compare with: {first_line(error)}") from error
    _settle(model, image_size)
    to_evaluation(model)
    return model.requires_grad_(False)


def _settle(model: nn.Module, image_size: int) -> None:
    """Give batch norms the statistics of random images.

    Without them the values of some deep networks fade until they are denormal numbers, which are slow.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the last batch counts
        norm.train()
    with torch.no_grad():
        model(torch.randn(2, 3, image_size, image_size))


def _require_same(counted: Network, multiply_adds: int) -> None:
    if counted.multiply_adds != multiply_adds:
        raise NoPeer(
            f"the file's network has {multiply_adds:,} multiply-adds, the float one of its name "
            f"{counted.multiply_adds:,}: they are not the same"
        )


def _torch_eager(network: Float) -> Run:
    inputs = torch.from_numpy(network.inputs)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return network.model(inputs).numpy()

    return run


def _torch_compile(network: Float) -> Run:
    inputs = torch.from_numpy(network.inputs)
    compiled = torch.compile(network.model, options={"freezing": True})

    def run() -> np.ndarray:
        with torch.no_grad():
            return compiled(inputs).numpy()

    with _compiled_files_in(network.folder / "compiled"):
        run()  # compiles, or raises
    return run


def _onnxruntime(network: Float, path: Path) -> Run:
    onnxruntime = _need("onnxruntime", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = network.threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {INPUT: network.inputs}
    return lambda: session.run(None, feed)[0]


def _openvino(network: Float, path: Path, **properties: str) -> Run:
    openvino = _need("openvino", "openvino")
    settings = {
        "INFERENCE_NUM_THREADS": network.threads,
        "NUM_STREAMS": 1,  # one run at a time
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the others are not tied to a core either, and can leave a busy one
    }
    settings |= properties
    _compile_elsewhere(path, settings)
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    inputs, output = openvino.Tensor(network.inputs, shared_memory=True), compiled.output(0)
    return lambda: request.infer([inputs], share_inputs=True, share_outputs=True)[output]


def _compile_elsewhere(path: Path, settings: dict[str, Any]) -> None:
    """Let another process compile a network first, for OpenVINO 2026.4 dies of DenseNet in 8 bits.

    Raises:
        NoPeer: it died.
    """
    script = "import json, sys, openvino; openvino.Core().compile_model(sys.argv[1], 'CPU', json.loads(sys.argv[2]))"
    command = [sys.executable, "-c", script, str(path), json.dumps(settings)]
    died = -subprocess.run(command, capture_output=True, check=False, cwd=path.parent).returncode
    if died > 0:
        raise NoPeer(f"it dies of this network (signal {died})")


Maker = Callable[[Float], Run]

INT8 = ("onnxruntime-int8", "openvino-int8")
PEERS: dict[str, Maker] = {
    "torch-eager": _torch_eager,
    "torch-compile": _torch_compile,
    "onnxruntime-float": lambda network: _onnxruntime(network, network.onnx),
    "onnxruntime-int8": lambda network: _onnxruntime(network, network.quantized_onnx),
    # Left to itself, OpenVINO computes a float network in bfloat16 where the processor does.
    "openvino-float": lambda network: _openvino(network, network.onnx, INFERENCE_PRECISION_HINT="f32"),
    "openvino-int8": lambda network: _openvino(network, network.quantized_onnx),
}


def build_peers(
    network: Float, makers: dict[str, Maker], tell: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Run], dict[str, str]]:
    """Return (the peers that run by name, why each of the others does not).

    Args:
        makers: what makes each peer, by its name.
        tell: called with the name of each before it is made.
    """
    torch.set_num_threads(network.threads)
    running: dict[str, Run] = {}
    missing: dict[str, str] = {}
    for name, make in makers.items():
        tell(name)
        try:
            with quiet():
                run = make(network)
                shape = np.shape(run())
            if shape[0] != len(network.inputs):
                raise NoPeer(f"it returns {shape} for {len(network.inputs)} images")
            running[name] = run
        except Exception as error:
            missing[name] = str(error) if isinstance(error, NoPeer) else f"{type(error).__name__}: {first_line(error)}"
    return running, missing


def _need(module: str, *packages: str):
    """Import a module.

    Raises:
        NoPeer: one of the packages that it needs is not installed.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package:
                raise
            raise NoPeer(f"`{package}` is not installed: {INSTALL}") from None
    return importlib.import_module(module)


@contextlib.contextmanager
def _compiled_files_in(folder: Path) -> Generator[None]:
    """Let what torch.compile writes go to `folder`."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})
