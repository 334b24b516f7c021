"""Accuracy of a network on a split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from asqcli.accuracy import Accuracy, AccuracyCounter
from asqcli.data.splits import Batch, Split
from asqcli.nn.forward import forward_in_evaluation
from asqcli.nn.modes import evaluating
from asqcli.processes.alone import ALONE, Processes
from asqcli.processes.part import Part

# Of a batch. More is not faster, and at 224 pixels 153 images at once took a mobile network 3.7 GB instead of 1.4.
MOST_IMAGES, MOST_PIXELS = 256, 1 << 20
# Small batches leave a GPU idle.
MOST_IMAGES_ON_GPU, MOST_PIXELS_ON_GPU = 2048, 1 << 23


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    *,
    batch_size: int | None = None,
    device: torch.device,
    poll: Callable[[], None] = lambda: None,
    classes: int | None = None,
    processes: Processes = ALONE,
) -> Accuracy:
    """Return the accuracy of `model` in evaluation mode.

    Args:
        batch_size: by default what takes little memory at the size of the images.
        poll: called before each batch, equally often by all processes; may raise to stop.
        classes: how many logits there must be, where the caller knows.
        processes: which measure a part of the images each, and all return the accuracy on the whole.
    Raises:
        UnsupportedError: the network raises, or returns no logits.
    """
    counter = AccuracyCounter()
    with evaluating(model):
        for batch in _own_batches(split.at(device), batch_size or _usual_batch_size(split, device), processes):
            poll()
            if batch is None:
                continue
            inputs, labels = batch
            logits = forward_in_evaluation(model, inputs.to(device), classes=classes)
            counter.add(logits.cpu().to(torch.float64).numpy(), labels.cpu().numpy())
    return counter.result(processes.sum)


@torch.no_grad()
def top_answers(
    model: nn.Module,
    split: Split,
    *,
    device: torch.device,
    poll: Callable[[], None] = lambda: None,
    processes: Processes = ALONE,
) -> Tensor:
    """Return the class that `model` thinks likeliest of each image, (N,) int64, on the CPU.

    In the same batches as in `evaluate`, so that a network agrees with itself. Args and Raises as there.
    """
    labels = torch.zeros(len(split), dtype=torch.int64)
    place = processes.part.cut(len(split)).start
    with evaluating(model):
        for batch in _own_batches(split.at(device), _usual_batch_size(split, device), processes):
            poll()
            if batch is None:
                continue
            answers = forward_in_evaluation(model, batch[0].to(device)).argmax(dim=1)
            labels[place : place + len(answers)] = answers.cpu()
            place += len(answers)
    processes.add_up(labels)
    return labels


def _usual_batch_size(split: Split, device: torch.device) -> int:
    """Return what takes little memory at the size of the images."""
    images, pixels = (MOST_IMAGES_ON_GPU, MOST_PIXELS_ON_GPU) if device.type == "cuda" else (MOST_IMAGES, MOST_PIXELS)
    return max(1, min(images, pixels // split.preprocessing.image_size**2))


def _own_batches(split: Split, batch_size: int, processes: Processes) -> Iterator[Batch | None]:
    """Yield the batches of this process's part, and None as often as the largest part has more."""
    if processes.size == 1:
        yield from split.eval_batches(batch_size)
        return
    own, largest = (part.cut(len(split)) for part in (processes.part, Part(0, processes.size)))
    count, most = (math.ceil((s.stop - s.start) / batch_size) for s in (own, largest))
    if count:
        yield from split.section(own).eval_batches(batch_size)
    yield from [None] * (most - count)
