"""Batch norm by the kernels of a GPU, by Triton's interpreter, which needs none: against PyTorch's in double."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton comes with PyTorch where that is built for CUDA")

SCRIPT = """
import copy
import itertools
import torch
from torch import nn
from torch.nn import functional as F
from asqcli.api import quantize_module
from asqcli.nn.modes import to_training
from asqcli.nn.norm_kernels import cuda
from asqcli.nn.precision import backward_in, forward_in

cpu, LAST = torch.device("cpu"), torch.channels_last
assert cuda.works(cpu)
torch.manual_seed(0)
# One tile and many, channels that fill none, that need several; sums of several programs; a mean far from 0.
cuda.MOST_PROGRAMS = 5
SHAPES = [(3, 20, 9, 7), (16, 16, 24, 24), (4, 300, 5, 5), (5, 3, 2, 1)]
for shape, dtype in itertools.product(SHAPES, (torch.float32, torch.bfloat16)):
    channels = shape[1]
    x = torch.randn(shape) * torch.linspace(0.1, 3, channels)[:, None, None] + 20
    x = x.to(dtype).contiguous(memory_format=LAST)
    grad = torch.randn(shape).to(dtype)
    weight, bias = torch.linspace(-1, 2, channels), torch.randn(channels)
    for with_weight, with_bias, tracked in ((True, True, True), (True, False, False), (False, False, True)):
        results = []
        for double in (False, True):
            change = (lambda t: t.double()) if double else (lambda t: t)
            inputs = [change(x).clone(), change(weight) if with_weight else None, change(bias) if with_bias else None]
            inputs = [t if t is None else t.detach().requires_grad_() for t in inputs]
            running = [change(t) for t in (torch.full([channels], 3.0), torch.full([channels], 2.0))] if tracked else []
            mean, variance = running or (None, None)
            if double:
                y = F.batch_norm(inputs[0], mean, variance, inputs[1], inputs[2], True, 0.3, 1e-3)
            else:
                y = cuda.batch_norm(*inputs, mean, variance, 0.3, 1e-3)
                assert y.dtype == dtype and y.stride() == x.stride()
            grads = torch.autograd.grad(y, [t for t in inputs if t is not None], change(grad))
            results.append([y, *running, *grads])
        for index, (a, b) in enumerate(zip(*results, strict=True)):
            bound = 2**-7 if a.dtype == torch.bfloat16 else 2e-5  # the interpreter rounds towards 0
            assert (a.double() - b).abs().max() <= bound * b.abs().max() + 1e-5, (shape, dtype, index)

nan = torch.full((2, 4, 3, 3), torch.nan).contiguous(memory_format=LAST)
assert cuda.batch_norm(nan, None, None, None, None, 0.1, 1e-5).isnan().all()
assert not cuda.fits(torch.randn(2, 4, 3, 3)) and not cuda.fits(torch.randn(1, 4, 1, 1)) and not cuda.takes(nan)

# In a network: the kernels are called for each of its norms, in either precision, and give what PyTorch's give.
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8),
                    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
images = torch.randn(8, 3, 12, 12).contiguous(memory_format=LAST)
# Float layers: a code that a last bit turns over would tell more than the norms do.
model = quantize_module(net.to(memory_format=LAST), [images], scheme="lsq", bits=8)
for layer in (model[0], model[3], model[7]):
    layer.weight_quantizer = layer.activation_quantizer = None
to_training(model)
calls, batch_norm = [], cuda.batch_norm
cuda.takes, cuda.batch_norm = cuda.fits, lambda *given: calls.append(given[0].dtype) or batch_norm(*given)
for precision in ("float32", "bfloat16"):
    results = []
    for context in (cuda._ByKernels, torch.enable_grad):
        twin = copy.deepcopy(model)
        with context(), forward_in(precision, cpu):
            y = twin(images)
        with context(), backward_in(precision, cpu):
            y.float().square().sum().backward()
        # Gradients of a few values are little more than roundings to bfloat16.
        grads = [p.grad for p in twin.parameters()] if precision == "float32" else []
        results.append([y.float(), *(b.float() for b in twin.buffers()), *grads])
    assert calls == [getattr(torch, precision)] * 2, calls
    calls.clear()
    for index, (a, b) in enumerate(zip(*results, strict=True)):
        bound = 0.05 if precision == "bfloat16" else 1e-3
        assert (a - b).abs().max() <= bound * b.abs().max() + 1e-3, (precision, index, a, b)
print("all equal")
"""


def test_by_the_interpreter(tmp_path):  # elsewhere than in the sources, which may lie beside the installed package
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == "all equal\n", done.stderr
