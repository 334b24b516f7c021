"""Training steps in turns: of the float network, and of the quantized one by PyTorch's products and by compiled passes.

With --bfloat16 both networks' in bfloat16, too.

    python tests/step_turns.py resnet20 --size 32 --batch 128 --threads 1 --turns 24

Prints medians in milliseconds, and of each step in units of the float step of the same turn. Images are noise: what is
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
from torch import nn

from asqcli.api import quantize_module
from asqcli.machine import keep_freed_memory
from asqcli.models.registry import build_model
from asqcli.nn import layers
from asqcli.nn.modes import to_training
from asqcli.nn.precision import BFLOAT16, FLOAT32
from asqcli.train.objective import Objective
from asqcli.train.optimizer import make_optimizer
from asqcli.train.passes import Passes

CLASSES, WARM = 10, 2


def step_of(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, precision: str = FLOAT32
) -> Callable[[], float]:
    """Return what takes a step of a network and returns its milliseconds."""
    to_training(model)
    passes = Passes(model, Objective(), classes=CLASSES, precision=precision, device=images.device)
    optimizer = make_optimizer(model, "sgd", lr=0.001, momentum=0.9, weight_decay=1e-4)

    def step() -> float:
        begin = time.perf_counter()
        passes(images, labels)
        optimizer.step()
        return 1000 * (time.perf_counter() - begin)

    return step


def by_pytorch(step: Callable[[], float]) -> Callable[[], float]:
    """Return a step whose convolutions are PyTorch's."""

    def kept() -> float:
        with mock.patch.object(layers, "product", return_value=None):
            return step()

    return kept


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
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()  # as every training does
    torch.manual_seed(0)
    images = torch.randn(given.batch, 3, given.size, given.size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (given.batch,))
    model = build_model(given.network, CLASSES, image_size=given.size)
    quantized = quantize_module(copy.deepcopy(model), [images], scheme=given.scheme, bits=given.bits)
    steps = {
        "float": step_of(model, images, labels),
        "by PyTorch": by_pytorch(step_of(copy.deepcopy(quantized), images, labels)),
        "compiled": step_of(quantized, images, labels),
    }
    if given.bfloat16:
        steps["float, bfloat16"] = step_of(copy.deepcopy(model), images, labels, BFLOAT16)
        steps["quantized, bfloat16"] = step_of(copy.deepcopy(quantized), images, labels, BFLOAT16)
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(WARM + given.turns):
        for name in names:
            taken = steps[name]()
            if turn >= WARM:
                times[name].append(taken)
        names = [*names[1:], names[0]]  # nobody always comes after the same
    for name, taken in times.items():
        ratios = [one / other for one, other in zip(taken, times["float"], strict=True)]
        print(f"{name:20}{statistics.median(taken):8.1f} ms{statistics.median(ratios):8.3f}")


if __name__ == "__main__":
    main()
