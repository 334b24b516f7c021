"""Batch-norm statistics estimated anew, where running averages cannot follow the weights.

A norm with momentum m averages over its last 1/m batches. With PyTorch's 0.1 that is enough; with 0.01 (EfficientNet,
MobileNet-V3 and what else comes from TensorFlow) or 0.0003 (MNASNet) the statistics belong to weights of long ago, and
evaluation computes nonsense while training, which normalises by the batch at hand, does not notice.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from asqcli.nn.modes import evaluating, to_evaluation, to_training
from asqcli.processes.alone import ALONE, Processes
from asqcli.train.forward import forward_in_training
from asqcli.train.one_batch import as_one_batch

USUAL_MOMENTUM = 0.1  # PyTorch's own
SETTLED = 3.0  # momentum times steps: by then e^-3, 5%, is left of the statistics from before
MOST_IMAGES, FEWEST_IMAGES = 1024, 256  # to estimate from


def updated_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the batch norms whose running statistics training moves; those that their author holds still are not.

    Args:
        model: in training mode, as its own `train` puts it.
    """
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return [n for n in norms if n.training and n.track_running_stats and n.momentum != 0]


def freeze_norms(model: nn.Module) -> None:
    """Let the norms of `model`, which is in training mode, normalise as in evaluation, and keep their statistics."""
    for norm in updated_norms(model):
        norm.eval()


def lagging_norms(model: nn.Module, *, steps: int, from_scratch: bool) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the batch norms whose running statistics cannot have followed the weights.

    Args:
        model: in training mode.
        steps: taken in this phase.
        from_scratch: did the statistics mean nothing when the phase began?
    """

    def lags(momentum: float | None) -> bool:
        if momentum is None or momentum < USUAL_MOMENTUM:  # None: the average over all steps there ever were
            return True
        return from_scratch and momentum * steps < SETTLED

    return [norm for norm in updated_norms(model) if lags(norm.momentum)]


def batches_to_estimate(*, batch_size: int, steps: int, images: int) -> int:
    """Return how many batches tell enough, and take no longer than the training or than all its images once.

    Args:
        steps: of the phase.
        images: to train on.

    >>> [batches_to_estimate(batch_size=128, steps=steps, images=50_000) for steps in (10_000, 1)]
    [8, 2]
    >>> batches_to_estimate(batch_size=32, steps=10_000, images=300)
    10
    """
    fewest, once, most = (-(-count // batch_size) for count in (FEWEST_IMAGES, images, MOST_IMAGES))
    return max(fewest, min(steps, once, most))


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, batches: Iterable[Tensor], processes: Processes = ALONE) -> None:
    """Replace the running statistics of `model` by the plain averages over `batches`.

    Everything else evaluates meanwhile. When `batches` raises, the statistics are as they were.

    Args:
        model: in any mode, and in the same afterwards.
        batches: training images, (N, 3, H, W) each, on the model's device; of each batch this process's part.
    """
    with evaluating(model):
        to_training(model)
        norms = updated_norms(model)
        to_evaluation(model)
        before = [(norm.momentum, {name: t.clone() for name, t in norm.named_buffers()}) for norm in norms]
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative average
                norm.train()
            for batch in batches:
                with as_one_batch(processes):
                    forward_in_training(model, batch)
            processes.copy_from_first(tensor for norm in norms for tensor in norm.buffers())
        except BaseException:
            for norm, (_, buffers) in zip(norms, before, strict=True):
                for name, tensor in norm.named_buffers():
                    tensor.copy_(buffers[name])
            raise
        finally:
            for norm, (momentum, _) in zip(norms, before, strict=True):
                norm.momentum = momentum
