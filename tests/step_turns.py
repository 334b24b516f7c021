"""Training steps in turns: of the float network by PyTorch, and of the quantized one by its products and by our own.

With --bfloat16 both networks' in bfloat16, too. On a GPU all are in bfloat16: of the float network as `torch.compile`
makes them, and of both networks by recordings, with the update recorded, too, or by Python.

    python tests/step_turns.py resnet20 --size 32 --batch 128 --threads 1 --turns 24
    python tests/step_turns.py resnet20 --size 32 --batch 1024 --device cuda

Prints medians in milliseconds, and of each step in units of the first step of the same turn. Images are noise: what is
measured is time alone.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asqcli.api import quantize_module
from asqcli.machine import keep_freed_memory
from asqcli.models.registry import build_model
from asqcli.nn import layers
from asqcli.nn.modes import to_training
from asqcli.nn.precision import BFLOAT16, FLOAT32
from asqcli.run.context import select_device
from asqcli.train.objective import Objective
from asqcli.train.optimizer import make_optimizer
from asqcli.train.passes import WARM, Passes, fastest
from asqcli.train.update import Update

CLASSES, LR = 10, 0.001
WARM_TURNS = WARM + 2  # on a GPU the passes are recorded after some, and `torch.compile` records after two


def step_of(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    precision: str = FLOAT32,
    *,
    update_by_python: bool = False,
    own_kernels: bool = True,
) -> Callable[[], None]:
    """Return what takes a step of a network, as training does."""
    to_training(model)
    plain = Passes(
        model, Objective(), classes=CLASSES, precision=precision, device=images.device, own_kernels=own_kernels
    )
    passes = fastest(plain)
    optimizer = make_optimizer(model, "sgd", lr=LR, momentum=0.9, weight_decay=1e-4)
    update = Update(optimizer, plain if update_by_python else passes)

    def step() -> None:
        loss, right = passes(images, labels)
        loss.item(), right.item()
        update(LR)

    return step


def compiled_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Return what takes a step of a float network in bfloat16 as `torch.compile` and autocast make it."""
    run = torch.compile(model.train(), mode="reduce-overhead")
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16):
            logits = run(images)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        loss.item(), (logits.argmax(dim=1) == labels).sum().item()
        optimizer.step()

    return step


def by_pytorch(step: Callable[[], None]) -> Callable[[], None]:
    """Return a step whose convolutions are PyTorch's."""

    def kept() -> None:
        with mock.patch.object(layers, "product", return_value=None):
            step()

    return kept


def on_a_cpu(
    model: nn.Module, quantized: nn.Module, images: Tensor, labels: Tensor, *, bfloat16: bool
) -> dict[str, Callable[[], None]]:
    """Return the steps by name."""
    steps = {
        "float": step_of(copy.deepcopy(model), images, labels, own_kernels=False),
        "by PyTorch": by_pytorch(step_of(copy.deepcopy(quantized), images, labels, own_kernels=False)),
        "compiled": step_of(copy.deepcopy(quantized), images, labels),
    }
    if bfloat16:
        steps["float, bfloat16"] = step_of(model, images, labels, BFLOAT16, own_kernels=False)
        steps["quantized, bfloat16"] = step_of(quantized, images, labels, BFLOAT16)
    return steps


def on_a_gpu(model: nn.Module, quantized: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Callable[[], None]]:
    """Return the steps by name."""
    return {
        "float by torch.compile": compiled_step(copy.deepcopy(model), images, labels),
        "float": step_of(model, images, labels, BFLOAT16),
        "quantized": step_of(copy.deepcopy(quantized), images, labels, BFLOAT16),
        "update by Python": step_of(copy.deepcopy(quantized), images, labels, BFLOAT16, update_by_python=True),
        "quantized, float32": step_of(quantized, images, labels),
    }


def milliseconds(step: Callable[[], None], device: torch.device) -> float:
    """Return what a step takes, once all before it is done, until it is done itself."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--scheme", default="post")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=24)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = select_device(given.device)
    keep_freed_memory()  # as every training does
    torch.manual_seed(0)
    images = torch.randn(given.batch, 3, given.size, given.size).contiguous(memory_format=torch.channels_last)
    images = images.to(device)
    labels = torch.randint(CLASSES, (given.batch,)).to(device)
    model = build_model(given.network, CLASSES, image_size=given.size).to(device)
    quantized = quantize_module(copy.deepcopy(model), [images], scheme=given.scheme, bits=given.bits)
    if device.type == "cuda":
        steps = on_a_gpu(model, quantized, images, labels)
    else:
        steps = on_a_cpu(model, quantized, images, labels, bfloat16=given.bfloat16)
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(WARM_TURNS + given.turns):
        for name in names:
            taken = milliseconds(steps[name], device)
            if turn >= WARM_TURNS:
                times[name].append(taken)
        names = [*names[1:], names[0]]  # nobody always comes after the same
    first = next(iter(times.values()))
    for name, taken in times.items():
        ratios = [one / other for one, other in zip(taken, first, strict=True)]
        print(f"{name:24}{statistics.median(taken):8.1f} ms{statistics.median(ratios):8.3f}")


if __name__ == "__main__":
    main()
