"""What an update may do to step sizes and clipping thresholds."""

# pyright: reportPrivateImportUsage=false
# PyTorch's functions over lists, which its optimizers are made of, have no public names; one by one a hundred small
# tensors take longer than the whole update.

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from asqcli.nn.prepare import quantizers
from asqcli.quant.activation_quantizers import ActivationQuantizer
from asqcli.quant.weight_quantizers import WeightQuantizer

LARGEST_CHANGE = 0.1  # of a step size or threshold in one update, as a share of it


@contextmanager
def bounded_steps(model: nn.Module) -> Generator[None]:
    """Let an optimizer's update inside change each step size and threshold by a tenth at most, and none to below 0.

    Departs from LSQ, which lets them go. Where few weights share a step and have many codes, as the 27 of a channel in
    8 bits, one clipped weight moves the step by 127 times its own gradient: in units of their size, steps moved
    hundreds of times as fast as weights, and some ended at zero or at many times their channel's largest weight, where
    all of its weights are signs or zeros. AdamW moves all parameters by the same amount, whatever their size.
    """
    found = list(quantizers(model))
    if not found:
        yield
        return
    scales: list[Tensor] = [quantizer.scale_parameter for quantizer in found]
    with torch.no_grad():
        lowest = torch._foreach_mul(scales, 1 - LARGEST_CHANGE)
        largest = torch._foreach_mul(scales, 1 + LARGEST_CHANGE)
    yield
    with torch.no_grad():
        torch._foreach_maximum_(scales, lowest)
        torch._foreach_minimum_(scales, largest)
    _project(found)


def project_steps(model: nn.Module) -> None:
    """Bring steps and thresholds back above 0: after an optimizer's update that is not in `bounded_steps`."""
    if found := list(quantizers(model)):
        _project(found)


@torch.no_grad()
def _project(found: Sequence[WeightQuantizer | ActivationQuantizer]) -> None:
    scales: list[Tensor] = [quantizer.scale_parameter for quantizer in found]
    torch._foreach_clamp_min_(scales, [quantizer.smallest_scale for quantizer in found])
