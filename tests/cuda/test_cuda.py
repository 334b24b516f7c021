"""On a GPU: the same values as on the CPU, the same gradients, and the same bits each time."""

import itertools
import json
import os
import random
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asqcli.api import quantize_module
from asqcli.data.augment import flip, shift
from asqcli.nn.forward import forward_in_evaluation
from asqcli.nn.modes import to_evaluation, to_training
from asqcli.nn.norm_kernels import batch_norm as norms
from asqcli.nn.norm_kernels import cuda as norm_kernels
from asqcli.quant.kernels import adapted, adapted_cuda, cuda, dispatch, eager, native
from asqcli.quant.kernels.grid import UniformGrid
from asqcli.quant.levels import apot_levels, post_levels, pot_levels
from asqcli.run.checkpoint import load_checkpoint
from asqcli.run.context import select_device
from asqcli.train.objective import Objective
from asqcli.train.optimizer import make_optimizer, optimizer_state
from asqcli.train.passes import WARM, Passes, ReplayedPasses
from asqcli.train.step_hooks import WeightAverage
from asqcli.train.update import Update
from tests.export.cases import SETTINGS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

GRIDS = [
    UniformGrid(0, 3), UniformGrid(-8, 7), UniformGrid(0, 255), UniformGrid(-128, 127),
    post_levels(2), post_levels(4), post_levels(4, grid="exact"), pot_levels(3), apot_levels(4),
]  # fmt: skip
SHAPES = [(3, 1, 1, 1), (2, 17, 1, 1), (5, 3, 13, 13), (4, 65, 9, 7), (128, 16, 32, 32), (6, 33), (9,)]


@pytest.fixture(scope="module", autouse=True)
def device():
    return select_device("cuda")


def quantized(net, chosen, device):
    images = [torch.randn(8, 3, 16, 16, device=device).to(memory_format=torch.channels_last) for _ in range(2)]
    return quantize_module(net.to(device), images, **SETTINGS[chosen])


def test_triton_works_here(device):
    assert cuda.works(device) and adapted_cuda.works(device) and norm_kernels.works(device)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_passes_equal_those_of_pytorch(grid, last, device):
    torch.manual_seed(0)
    largest = max(grid.qmax if isinstance(grid, UniformGrid) else grid.largest, 1)
    for shape in SHAPES:
        x, grad = 0.4 * largest * torch.randn(shape), torch.randn(shape)
        if last and len(shape) == 4:
            x = x.to(memory_format=torch.channels_last)
        for scale in (torch.tensor(0.37), torch.rand(shape[0], *[1] * (len(shape) - 1)) + 0.1):
            on_gpu = [t.to(device) for t in (x, scale)]
            assert cuda.takes(*on_gpu)
            x_hat = cuda.fake_quantize(*on_gpu, grid)
            assert torch.equal(x_hat.cpu(), eager.fake_quantize(x, scale, grid)) and x_hat.stride() == x.stride()
            found, sums = cuda.fake_quantize_backward(grad.to(device), *on_gpu, grid)
            _, exact = eager.fake_quantize_backward(grad.double(), x.double(), scale.double(), grid)
            assert torch.equal(found.cpu(), eager.fake_quantize_backward(grad, x, scale, grid)[0])
            size = (grad.abs() * largest).double().sum_to_size(scale.shape)
            assert sums.shape == scale.shape and ((sums.cpu() - exact).abs() <= 2e-3 * size).all(), shape


@pytest.mark.parametrize("grid", [g for g in GRIDS if isinstance(g, UniformGrid) or g.integer], ids=str)
def test_codes_equal_those_of_pytorch(grid, device):
    torch.manual_seed(0)
    largest = max(grid.qmax if isinstance(grid, UniformGrid) else grid.largest, 1)
    for shape in SHAPES:
        drawn, grad = 0.4 * largest * torch.randn(shape), torch.randn(shape)
        scales = torch.tensor(0.37), torch.rand(shape[0], *[1] * (len(shape) - 1)) + 0.1
        for x, scale in itertools.product((drawn, drawn.bfloat16()), scales):
            there = [t.to(device) for t in (x, scale)]
            assert cuda.takes(*there)
            for dtype in (torch.bfloat16, torch.float32):
                assert torch.equal(dispatch.codes(*there, grid, dtype).cpu(), dispatch.codes(x, scale, grid, dtype))
            expected = dispatch.codes_backward(grad, x, scale, grid)
            for given in (grad, grad.bfloat16()):
                found = dispatch.codes_backward(given.to(device), *there, grid)
                assert found[0].dtype == x.dtype
                size = (eager.of_values(grad, scale).abs() * largest).double().sum_to_size(scale.shape)
                assert torch.equal(found[0].cpu(), expected[0])
                assert ((found[1].cpu() - expected[1]).abs() <= 2e-3 * size).all(), shape


@pytest.mark.parametrize("shape", [(5, 16, 7, 9), (3, 70, 1, 1), (128, 16, 32, 32), (6, 40), (2, 9, 40)], ids=str)
def test_results_are_scaled_as_by_pytorch(shape, device):
    torch.manual_seed(4)
    of_samples = torch.rand(shape[0], *[1] * (len(shape) - 1))
    of_channels = torch.rand(shape[1], 1, 1) if len(shape) == 4 else torch.rand(shape[-1])
    drawn = torch.randn(shape)
    drawn = drawn.bfloat16()
    for x in [drawn, drawn.to(memory_format=torch.channels_last)] if len(shape) == 4 else [drawn]:
        for scales in ((of_samples, of_channels), (torch.tensor(0.3), of_channels), (of_samples, of_channels[:1])):
            there = [t.to(device) for t in (x, *scales)]
            assert cuda.can_scale(*there)
            found = dispatch.scaled(*there)
            assert found.dtype == torch.bfloat16 and found.stride() == x.stride()
            assert torch.equal(found.cpu(), (x.float() * (scales[0] * scales[1])).bfloat16())


@pytest.mark.skipif(native.loaded() is None, reason="the passes of training were not compiled")
@pytest.mark.parametrize(
    "shape", [(5, 16, 7, 9), (3, 3, 8, 8), (4, 70, 3, 3), (1, 130, 5, 5), (6, 40), (2, 9, 40), (2, 1280)], ids=str
)
def test_adapters_answer_as_on_the_cpu(shape, device):
    torch.manual_seed(2)
    channels_last = len(shape) < 4
    channels = shape[-1] if channels_last else shape[1]
    step_size, grid = torch.tensor(0.11), UniformGrid(0, 15)
    for widths in ((channels, 1), (channels, max(channels // 4, 1), 1), (channels, 50, 1)):
        layers = [(torch.randn(o, i) * 0.5, torch.randn(o) * 0.3) for i, o in itertools.pairwise(widths)]
        there = [tuple(t.to(device) for t in layer) for layer in layers]
        drawn, grad = torch.rand(shape) * 2 - 0.3, torch.randn(shape)
        orders = [drawn] if channels_last else [drawn, drawn.to(memory_format=torch.channels_last)]
        for x, of_codes in itertools.product((*orders, *(t.bfloat16() for t in orders)), (False, True)):
            last = {"channels_last": channels_last}
            _, answers = adapted.adapted_fake_quantize(x, step_size, layers, grid, **last)
            x_hat, on_gpu = adapted_cuda.adapted_fake_quantize(x.to(device), step_size.to(device), there, grid, **last)
            for a, b in zip(answers, on_gpu, strict=True):
                assert a.shape == b.shape and torch.allclose(a, b.cpu(), rtol=1e-4, atol=1e-6)
            assert torch.equal(x_hat.cpu(), eager.fake_quantize(x, on_gpu.scale.cpu(), grid))
            expected, found = (
                (r[0], r[1], *itertools.chain.from_iterable(r[2]))
                for r in (
                    adapted.adapted_fake_quantize_backward(
                        grad, x, step_size, layers, answers, grid, **last, of_codes=of_codes
                    ),
                    adapted_cuda.adapted_fake_quantize_backward(
                        grad.to(device), x.to(device), step_size.to(device), there, on_gpu, grid, **last,
                        of_codes=of_codes,
                    ),
                )
            )  # fmt: skip
            for a, b in zip(expected, found, strict=True):
                assert a.shape == b.shape and a.dtype == b.dtype
                bound = 2**-7 if a.dtype == torch.bfloat16 else 1e-3  # of two that are rounded, a neighbour
                assert (a.float() - b.cpu().float()).abs().max() <= bound * a.float().abs().max() + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape",
    [(128, 16, 32, 32), (5, 20, 9, 7), (64, 512, 7, 7), (4, 300, 5, 5), (256, 3, 56, 56), (4, 3, 1, 1)],
    ids=str,
)
def test_batches_are_normalized_as_in_double(shape, dtype, device):
    """The forward within a rounding, gradients within those of float32 sums, and the same bits each time."""
    torch.manual_seed(5)
    spread = torch.linspace(0.1, 3.0, shape[1])[:, None, None]
    x = (torch.randn(shape) * spread + 20).to(dtype).contiguous(memory_format=torch.channels_last)
    grad, weight, bias = torch.randn(shape).to(dtype), torch.linspace(-1.0, 2.0, shape[1]), torch.randn(shape[1])
    results = []
    for again in range(3):
        change = torch.Tensor.double if again == 2 else partial(torch.Tensor.to, device=device)
        inputs = [change(t).detach().requires_grad_() for t in (x, weight, bias)]
        running = change(torch.zeros(shape[1])), change(torch.ones(shape[1]))
        if again == 2:
            y = F.batch_norm(inputs[0], *running, *inputs[1:], True, 0.1, 1e-5)
        else:
            assert norms.takes(*inputs, *running)
            y = norms.batch_norm(*inputs, *running, 0.1, 1e-5)
        results.append([y, *running, *torch.autograd.grad(y, inputs, change(grad))])
    size = (grad.double().abs().amax() * (1 + weight.abs().max()) * 10).item()  # of gradients that cancel
    for a, b, expected in zip(*results, strict=True):
        assert torch.equal(a, b)
        bound = 2**-8 if a.dtype == torch.bfloat16 else 1e-5
        assert (a.cpu().double() - expected).abs().max() <= bound * expected.abs().max() + 1e-5 * size


def test_augmentation_draws_the_same(device):
    images = torch.randint(0, 256, (16, 3, 20, 24), dtype=torch.uint8)
    for augment in (lambda x, g: shift(x, 4, g), flip):
        here, there = (augment(x, torch.Generator().manual_seed(3)) for x in (images, images.to(device)))
        assert torch.equal(here, there.cpu())


@pytest.mark.parametrize("chosen", SETTINGS)
def test_evaluation_gives_the_bits_of_the_cpu(tiny_net, chosen, device):
    torch.manual_seed(0)
    model = quantized(tiny_net, chosen, device)
    to_evaluation(model)
    images = torch.randn(32, 3, 16, 16).to(memory_format=torch.channels_last)
    there = forward_in_evaluation(model, images.to(device)).cpu()
    here = forward_in_evaluation(model.cpu(), images)
    assert torch.equal(here, there), (here - there).abs().max()


def trained(model, run, steps, device, *, batches=(8, 7), optimizer="sgd", visit=None):
    """Take steps; after that of number `visit` the network is on the CPU for a while, as where a run is saved."""
    optimizer = make_optimizer(model, optimizer, lr=0.01, momentum=0.9, weight_decay=1e-4, step_lr=0.5)
    update, average = Update(optimizer, run), WeightAverage(model, 0.5)
    torch.manual_seed(1)
    losses = []
    for step in range(steps):
        count = batches[step % len(batches)]
        images = torch.randn(count, 3, 16, 16, device=device).to(memory_format=torch.channels_last)
        labels = torch.randint(0, 10, (count,), device=device)
        loss, right = run(images, labels)
        losses.append((loss.item(), int(right)))
        update(0.01 * (1 - step / steps))
        average.after_step(model)
        if step == visit:
            model.cpu().to(device)
    kept = {"network": model.state_dict(), "average": average.state(), **optimizer_state(model, optimizer)}
    named = {f"{kind} of {name}": tensor for kind, tensors in kept.items() for name, tensor in tensors.items()}
    return losses, {name: tensor.clone() for name, tensor in named.items() if torch.is_tensor(tensor)}


def by_kernel_and_replayed(tiny_net, prepare, steps, device, precision="float32", **options):
    """Train the same network in both ways; return what each gave, and the passes that may have been replayed."""
    start = {name: tensor.clone() for name, tensor in tiny_net.state_dict().items()}
    results = []
    for replayed in (False, True):
        torch.manual_seed(0)
        random.seed(0)
        net = type(tiny_net)()
        net.load_state_dict(start)
        model = prepare(net)
        to_training(model)
        run = Passes(model, Objective(), classes=10, precision=precision, device=device)
        if replayed:
            run = ReplayedPasses(run)
        results.append(trained(model, run, steps, device, **options))
    return results, run


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("chosen", SETTINGS)
def test_replayed_steps_give_the_same_bits(tiny_net, chosen, precision, device):
    prepare = partial(quantized, chosen=chosen, device=device)
    results, run = by_kernel_and_replayed(tiny_net, prepare, 14, device, precision, visit=9)
    assert run.can_record and len(run.recorded) == 2 and all(kept.follow_up for kept in run.recorded.values())
    assert_equal(*results)


def assert_equal(one, other):
    (losses, state), (again, replayed_state) = one, other
    assert losses == again
    assert all(torch.equal(state[name], replayed_state[name]) for name in state)


def test_an_update_that_asks_python_for_its_rate_is_not_recorded(tiny_net, device):
    prepare = partial(quantized, chosen="post4", device=device)
    results, run = by_kernel_and_replayed(tiny_net, prepare, 12, device, optimizer="adamw")
    assert run.can_record and not any(kept.follow_up for kept in run.recorded.values())
    assert_equal(*results)


class ByPython(nn.Module):
    """Remembers how often it ran, draws with Python, or reads a value."""

    def __init__(self, net, kind):
        super().__init__()
        self.net, self.kind, self.runs = net, kind, 0

    def forward(self, x):
        if self.kind == "remembers":
            self.runs += 1
            x = x * (1 + 0.1 * (self.runs % 3))
        if self.kind == "draws" and random.random() < 0.5:
            x = -x
        if self.kind == "reads" and x.sum().item() > 0:
            x = 2 * x
        return self.net(x)


@pytest.mark.parametrize("kind", ["remembers", "draws", "reads"])
def test_what_cannot_be_recorded_runs_kernel_by_kernel(tiny_net, kind, device):
    results, run = by_kernel_and_replayed(tiny_net, lambda net: ByPython(net, kind).to(device), WARM + 6, device)
    assert not run.can_record
    assert_equal(*results)


def test_a_tensor_that_is_replaced_is_seen(tiny_net, device):
    model = tiny_net.to(device)
    to_training(model)
    run = ReplayedPasses(Passes(model, Objective(), classes=10, precision="float32", device=device))
    trained(model, run, WARM + 2, device, batches=(8,))
    before = run.recorded[torch.Size((8, 3, 16, 16))]
    model.head.weight = nn.Parameter(torch.zeros_like(model.head.weight))
    losses, _ = trained(model, run, 1, device, batches=(8,))
    assert run.recorded[torch.Size((8, 3, 16, 16))] is not before
    assert losses[0][0] == pytest.approx(2.3026, abs=0.2)


class SkipsSmallBatches(nn.Module):
    """A network that has a layer with no part in batches of fewer than 8."""

    def __init__(self, net):
        super().__init__()
        self.net, self.extra = net, nn.Linear(10, 10)

    def forward(self, x):
        logits = self.net(x)
        return self.extra(logits) if len(x) == 8 else logits


@pytest.mark.parametrize("batches", [(8, 7), (7, 7, 7, 7, 8)])
def test_a_layer_without_a_part_in_a_batch_has_no_gradient_of_another(tiny_net, batches, device):
    """In the second order its first gradient is a recorded one, and no replay is to make its momentum anew."""

    def prepare(net):
        return SkipsSmallBatches(net).to(device)

    results, run = by_kernel_and_replayed(tiny_net, prepare, 20, device, batches=batches)
    assert run.can_record and len(run.recorded) == 2
    assert_equal(*results)


def test_what_follows_and_cannot_be_recorded_is_done_by_python(tiny_net, device):
    model, seen = tiny_net.to(device), []
    to_training(model)
    run = ReplayedPasses(Passes(model, Objective(), classes=10, precision="float32", device=device))
    images, labels = torch.randn(8, 3, 16, 16, device=device), torch.zeros(8, dtype=torch.int64, device=device)
    for _ in range(WARM + 3):
        run(images, labels)
        run.follow_up(lambda: seen.append(model.head.bias.grad.sum().item()))
    assert not run.can_record and len(seen) == WARM + 3


def test_gradients_that_were_moved_are_made_anew(tiny_net, device):
    model = tiny_net.to(device)
    to_training(model)
    run = ReplayedPasses(Passes(model, Objective(), classes=10, precision="float32", device=device))
    images, labels = torch.randn(8, 3, 16, 16, device=device), torch.zeros(8, dtype=torch.int64, device=device)
    for _ in range(WARM + 2):
        run(images, labels)
    before, recorded = [p.grad.clone() for p in model.parameters()], run.recorded[images.shape]
    model.cpu().to(device)
    for parameter in model.parameters():
        parameter.grad.zero_()
    run(images, labels)
    run(images, labels)
    assert run.recorded[images.shape] is not recorded
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), before, strict=True))


def asq(*arguments):
    environment = {**os.environ, "ASQ_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", "asqcli", *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("scheme", ["post", "lsq"])
def test_a_run_is_repeated_to_the_bit_and_its_file_is_exact(tmp_path, scheme):
    made = ["quantize", "resnet20", "--scheme", scheme, "--weights", "none", "--set", "train.warmup.epochs=1"]
    made += ["--epochs", "2", "--device", "cuda", "--json"]
    results = [json.loads(asq(*made, "--out", str(tmp_path / name))) for name in "ab"]
    assert results[0]["loss"] == results[1]["loss"]
    a, b = (load_checkpoint(tmp_path / name / "checkpoints" / "last").model for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)
    asq("export", str(tmp_path / "a"), "--out", str(tmp_path / "a.asq"))
    by_file, by_gpu, by_cpu = (
        json.loads(asq("eval", *which, "--json"))
        for which in (
            [str(tmp_path / "a.asq")],
            [str(tmp_path / "a"), "--device", "cuda"],
            [str(tmp_path / "a"), "--device", "cpu"],
        )
    )
    assert by_file["loss"] == by_cpu["loss"] == by_gpu["loss"]
