"""The kernels of a GPU by Triton's interpreter, which needs none: the values of the other forms, and gradients."""

import os
import subprocess
import sys

import pytest

from asqcli.quant.kernels import native

pytest.importorskip("triton", reason="Triton comes with PyTorch where that is built for CUDA")
pytestmark = pytest.mark.skipif(native.loaded() is None, reason="the passes of training were not compiled")

SCRIPT = """
import itertools
import torch
from asqcli.quant.kernels import adapted, adapted_cuda, cuda, eager
from asqcli.quant.kernels.grid import UniformGrid
from asqcli.quant.levels import apot_levels, post_levels

cpu, LAST = torch.device("cpu"), torch.channels_last


def rounded_alike(a, b):  # a GPU rounds to the nearest, the interpreter towards 0
    return a.dtype == torch.bfloat16 and torch.allclose(a.float(), b.float(), rtol=2**-7, atol=0.0)


assert cuda.works(cpu) and adapted_cuda.works(cpu)
torch.manual_seed(0)
for grid in [UniformGrid(0, 3), UniformGrid(-128, 127), post_levels(4), post_levels(4, grid="exact"), apot_levels(4)]:
    largest = grid.qmax if isinstance(grid, UniformGrid) else grid.largest
    for shape in [(3, 1, 1, 1), (5, 3, 13, 13), (4, 65, 9, 7), (9,)]:
        x, grad = torch.randn(shape) * 0.4 * largest, torch.randn(shape)
        x = x.to(memory_format=LAST) if len(shape) == 4 else x
        for scale in (torch.tensor(0.37), torch.rand(shape[0], *[1] * (len(shape) - 1)) + 0.1):
            assert torch.equal(cuda.fake_quantize(x, scale, grid), eager.fake_quantize(x, scale, grid))
            found, expected = (form.fake_quantize_backward(grad, x, scale, grid) for form in (cuda, eager))
            assert torch.equal(found[0], expected[0]) and found[1].shape == scale.shape
            assert torch.allclose(found[1], expected[1], rtol=1e-3, atol=1e-3 * largest)
            if largest == int(largest) and grid != post_levels(4, grid="exact"):
                for dtype in (torch.bfloat16, torch.float32):
                    codes = cuda.codes(x, scale, grid, dtype)
                    assert codes.dtype == dtype and codes.stride() == x.stride()
                    assert torch.equal(codes.float(), (eager.fake_quantize(x, scale, grid) / scale).round())
                for g in (grad, grad.bfloat16(), grad.contiguous(memory_format=LAST) if grad.dim() == 4 else grad):
                    found = cuda.codes_backward(g, x, scale, grid)
                    expected = eager.fake_quantize_backward(g.bfloat16().float() / scale, x, scale, grid)
                    assert torch.equal(found[0], expected[0]) and found[1].shape == scale.shape
                    assert torch.allclose(found[1], expected[1], rtol=1e-3, atol=1e-3 * largest / scale.min().item())
                of_rounded = cuda.codes_backward(grad, x.bfloat16(), scale, grid)
                expected = cuda.codes_backward(grad, x.bfloat16().float(), scale, grid)
                assert rounded_alike(of_rounded[0], expected[0]) and torch.equal(of_rounded[1], expected[1])
                codes = [cuda.codes(given, scale, grid, dtype) for given in (x.bfloat16(), x.bfloat16().float())]
                assert torch.equal(*codes)
weight = torch.randn(7, 33)
weight[3] = 0
assert torch.equal(cuda.round_rows(weight, 127, 1e-30), eager.round_rows(weight, 127, 1e-30))
x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.5, 1.5, 2.5, -0.5])
assert cuda.fake_quantize(x, torch.tensor(1.0), UniformGrid(-2, 3)).nan_to_num(9).tolist() == [9, 3, -2, 0, 2, 2, 0]

grid, step_size = UniformGrid(0, 15), torch.tensor(0.11)
for shape in [(5, 16, 7, 9), (4, 70, 3, 3), (6, 40), (2, 9, 40)]:
    last = len(shape) < 4
    channels = shape[-1] if last else shape[1]
    x, grad = torch.rand(shape) * 2 - 0.3, torch.randn(shape)
    for widths in ((channels, 1), (channels, channels // 4, 1)):
        layers = [(torch.randn(o, i) * 0.5, torch.randn(o) * 0.3) for i, o in itertools.pairwise(widths)]
        forms = []
        for form in (adapted, adapted_cuda):
            x_hat, answers = form.adapted_fake_quantize(x, step_size, layers, grid, channels_last=last)
            assert torch.equal(x_hat, eager.fake_quantize(x, answers.scale, grid))
            back = form.adapted_fake_quantize_backward(grad, x, step_size, layers, answers, grid, channels_last=last)
            if form is adapted_cuda:  # by the gradient of codes: as by that of the values that it stands for
                of_codes, of_values = (
                    form.adapted_fake_quantize_backward(
                        g, x, step_size, layers, answers, grid, channels_last=last, of_codes=codes
                    )
                    for g, codes in ((grad.bfloat16(), True), (eager.of_values(grad, answers.scale), False))
                )
                assert all(torch.equal(a, b) for a, b in zip(of_codes[:2], of_values[:2], strict=True))
                rounded, in_float = (  # an input in bfloat16: all but its gradient is that of the same in float32
                    [
                        given,
                        *form.adapted_codes(given, step_size, layers, grid, torch.bfloat16, channels_last=last),
                    ]
                    for given in (x.bfloat16(), x.bfloat16().float())
                )
                assert torch.equal(rounded[1], in_float[1])
                assert all(torch.equal(a, b) for a, b in zip(rounded[2], in_float[2], strict=True))
                of_rounded, of_float = (
                    form.adapted_fake_quantize_backward(
                        grad, given, step_size, layers, answers, grid, channels_last=last, of_codes=True
                    )
                    for given, _, answers in (rounded, in_float)
                )
                assert rounded_alike(of_rounded[0], of_float[0]) and torch.equal(of_rounded[1], of_float[1])
            forms.append([*answers, *back[:2], *itertools.chain.from_iterable(back[2])])
        for a, b in zip(*forms, strict=True):
            assert a.shape == b.shape and (a.numel() == 0 or (a - b).abs().max() <= 1e-4 * a.abs().max() + 1e-6)

OF_CONVOLUTIONS, OF_LINEAR_LAYERS = [(3, 5, 4, 6), (2, 70, 3, 3), (4, 6, 1, 1)], [(6, 40), (2, 9, 40), (2, 3, 4, 5)]
for linear, shapes in enumerate((OF_CONVOLUTIONS, OF_LINEAR_LAYERS)):
    for shape in shapes:
        channels = shape[-1] if linear else shape[1]
        for last in (False, True) if len(shape) == 4 else (False,):
            drawn = torch.randn(shape).contiguous(memory_format=LAST if last else torch.contiguous_format)
            x = drawn.bfloat16()
            for samples, of_channels in itertools.product((1, shape[0]), (1, channels)):
                a = torch.rand(samples, *[1] * (len(shape) - 1)) if samples > 1 else torch.rand(())
                b = torch.rand(of_channels) if linear else torch.rand(of_channels, 1, 1)
                y = cuda.scaled(x, a, b)
                expected = x.float() * (a * b)
                assert y.dtype == torch.bfloat16 and y.stride() == x.stride()
                assert (y.float() - expected).abs().max() <= expected.abs().max() / 128
            if linear and last:  # adapters of linear layers make their input contiguous
                continue
            grad, scale, grid = torch.randn_like(x), torch.rand(shape[0], *[1] * (len(shape) - 1)), UniformGrid(-8, 7)
            dimension, addend = len(shape) - 1 if linear else 1, torch.randn(shape[0], channels)
            for given, of_codes in ((x, True), (drawn, True), (drawn, False)):
                g = cuda.taken_gradient(grad if of_codes else grad.float(), given, of_codes=of_codes)
                found = cuda.gradient_of_adapted(g, given, scale, grid, addend, dimension, of_codes=of_codes)
                of_values = eager.of_values(g, scale) if of_codes else g
                expected, _ = eager.fake_quantize_backward(of_values, given.float(), scale, grid)
                expected = expected + (addend.reshape(shape[0], *[1] * (len(shape) - 2), channels) if linear
                                       else addend[:, :, None, None])
                assert torch.equal(found, expected) if given is drawn else rounded_alike(found, expected)
print("all equal")
"""


def test_by_the_interpreter(tmp_path):  # elsewhere than in the sources, which may lie beside the installed package
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == "all equal\n", done.stderr
