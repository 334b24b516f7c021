"""Batch norm by the kernels of a GPU, by Triton's interpreter, which needs none: against PyTorch's in double."""

import copy
import importlib.util
import itertools
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from asqcli.api import quantize_module
from asqcli.nn.modes import to_training
from asqcli.nn.norm_kernels import batch_norm as norms
from asqcli.nn.norm_kernels import cuda
from asqcli.nn.precision import backward_in, forward_in
from asqcli.train.batch_norm import freeze_norms
from asqcli.train.forward import backward_in_training

LAST, CPU = torch.channels_last, torch.device("cpu")
# Channels that fill no vector or tile, or several; few rows, and rows of several parts; large means.
SHAPES = [(5, 3, 2, 1), (4, 300, 3, 5), (9, 16, 24, 24)]


def cases():
    for shape, dtype in itertools.product(SHAPES, (torch.float32, torch.bfloat16)):
        torch.manual_seed(0)
        x = torch.randn(shape) * torch.linspace(0.1, 3, shape[1])[:, None, None] + 20
        x, grad = (t.to(dtype).contiguous(memory_format=LAST) for t in (x, torch.randn(shape)))
        weight, bias = torch.linspace(-1, 2, shape[1]), torch.randn(shape[1])
        for tracked, given in ((True, (weight, bias)), (False, (weight, None)), (True, (None, bias))):
            yield x, grad, *given, tracked


def check():
    for x, grad, weight, bias, tracked in cases():
        running = [torch.full((x.shape[1],), 3.0), torch.full((x.shape[1],), 2.0)] if tracked else []
        in_double = [t.double() for t in running]
        y, mean, inverse = cuda.forward(x, weight, bias, *(running or (None, None)), 0.3, 1e-3)
        of_x, of_weight, of_bias = cuda.backward(grad, x, weight, mean, inverse, of_x=True)
        found = [
            y,
            *running,
            of_x,
            *([of_weight] if weight is not None else []),
            *([of_bias] if bias is not None else []),
        ]
        inputs = [None if t is None else t.double().requires_grad_() for t in (x, weight, bias)]
        y = F.batch_norm(inputs[0], *(in_double or (None, None)), *inputs[1:], True, 0.3, 1e-3)
        expected = [y, *in_double, *torch.autograd.grad(y, [t for t in inputs if t is not None], grad.double())]
        assert found[0].dtype == x.dtype and found[0].stride() == of_x.stride() == x.stride()
        for index, (a, b) in enumerate(zip(found, expected, strict=True)):
            bound = 2**-7 if a.dtype == torch.bfloat16 else 2e-5  # the interpreter rounds towards 0
            assert (a.double() - b).abs().max() <= bound * b.abs().max() + 1e-5, (x.shape, x.dtype, index)
        assert cuda.backward(grad, x, weight, mean, inverse, of_x=False)[0] is None
    nan = torch.full((2, 4, 3, 3), torch.nan).contiguous(memory_format=LAST)
    assert cuda.forward(nan, None, None, None, None, 0.1, 1e-5)[0].isnan().all()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with PyTorch for CUDA")
def test_by_the_interpreter(tmp_path):  # elsewhere than in the sources, which may lie beside the installed package
    root = str(Path(__file__).parents[2])  # last, behind an installed package
    script = f"import sys; sys.path.append({root!r}); from tests.nn import test_norm_kernels as t; t.by_triton()"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == "all equal\n", done.stderr


def by_triton():
    assert cuda.works(CPU)
    cuda.MOST_PROGRAMS = 5  # which have several tiles each
    check()
    check_first_value()
    norms.takes = norms.fits
    for precision, checkpointed in itertools.product(("float32", "bfloat16"), (False, True)):
        check_network(precision == "bfloat16", precision, checkpointed)
    print("all equal")


def test_what_the_kernels_do_not_take():
    x = torch.randn(2, 4, 3, 3)
    last = x.contiguous(memory_format=LAST)
    assert not norms.fits(x) and not norms.fits(last.double()) and not norms.fits(x[:1, :, :1, :1])
    assert not norms.fits(last[:, :, :, 0]) and not norms.fits(last, torch.ones(4).double())
    assert norms.fits(last, torch.ones(4)) and not norms.fits(last, torch.ones(3)) and not norms.takes(last)


def check_first_value():
    """What is taken away from all values before their squares are summed is no single one."""
    torch.manual_seed(3)
    x = torch.randn(8, 4, 30, 30).contiguous(memory_format=LAST)
    x[0, :, 0, 0] = 300.0
    _, mean, inverse = cuda.forward(x, None, None, None, None, 0.1, 0.0)
    exact = x.double().transpose(0, 1).flatten(1)
    assert torch.allclose(mean.double(), exact.mean(1), rtol=1e-4)
    assert torch.allclose(inverse.double() ** -2, exact.var(1, correction=0), rtol=1e-4)


class Net(nn.Module):
    """Two convolutions with their norms, one of which is run again in a backward where it is `checkpointed`."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, momentum=None), nn.AdaptiveAvgPool2d(1))
        self.head, self.checkpointed = nn.Linear(8, 4), False

    def forward(self, x):
        x = self.first(x)
        x = checkpoint(self.second, x, use_reentrant=False) if self.checkpointed else self.second(x)
        return self.head(x.flatten(1))


def check_network(quantized, precision, checkpointed):
    """The kernels are called for each of its norms, and give what PyTorch's give."""
    torch.manual_seed(1)
    images = torch.randn(8, 3, 12, 12).contiguous(memory_format=LAST)
    model = Net().to(memory_format=LAST)
    if quantized:
        model = quantize_module(model, [images], scheme="lsq", bits=8)
    to_training(model)
    model.checkpointed = checkpointed
    calls, forward, results = [], cuda.forward, []
    cuda.forward = lambda x, *given: calls.append(x.dtype) or forward(x, *given)
    for context in (norms.ByKernels, nullcontext):
        twin = copy.deepcopy(model)
        with context(), forward_in(precision, CPU):
            y = twin(images)
        with context(), backward_in(precision, CPU):
            backward_in_training(y.float().square().sum())
        # Gradients of a few values are little more than roundings to bfloat16; codes turn over by a last bit.
        exact = precision == "float32" and not quantized
        grads = [p.grad for p in twin.parameters()] if exact else []
        results.append([y.float(), *(b.float() for b in twin.buffers()), *grads])
    cuda.forward = forward
    assert calls == [getattr(torch, precision)] * (3 if checkpointed else 2)
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() <= (0.05 if precision == "bfloat16" else 1e-3) * b.abs().max() + 1e-3


def test_frozen_norms_of_bfloat16_are_those_of_float32_rounded():
    torch.manual_seed(2)
    images = torch.randn(8, 3, 12, 12).contiguous(memory_format=LAST)
    model = quantize_module(Net().to(memory_format=LAST), [images], scheme="lsq", bits=8)
    to_training(model)
    freeze_norms(model)
    for norm in (model.first[1], model.second[1]):
        x = torch.randn(4, 8, 5, 5).bfloat16()
        with forward_in("bfloat16", CPU):
            found = norm(x)
        assert torch.allclose(found.float(), norm(x.float()), rtol=2**-7, atol=2**-7) and found.dtype == x.dtype


def test_frozen_norms_stay_pytorch_s(monkeypatch):
    model = Net().to(memory_format=LAST)
    images = torch.randn(8, 3, 12, 12).contiguous(memory_format=LAST)
    to_training(model)
    freeze_norms(model)
    monkeypatch.setattr(norms, "batch_norm", None)  # which would raise
    monkeypatch.setattr(norms, "takes", norms.fits)
    with norms.ByKernels(), forward_in("bfloat16", CPU):
        assert model(images).isfinite().all()
