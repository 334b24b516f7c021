"""The network of a run, beside which the engine's answers are verified."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from asqcli.engine.interface import Observer
from asqcli.nn.forward import logits_before_log_softmax
from asqcli.nn.modes import to_evaluation
from asqcli.nn.prepare import quant_layers


class TorchRunner:
    """A prepared network that runs like a session: codes and accumulators of each layer can be seen.

    Args:
        model: with quantized layers, on the CPU.
    """

    def __init__(self, model: nn.Module) -> None:
        to_evaluation(model)
        self.model = model

    @torch.no_grad()
    def __call__(self, inputs: np.ndarray, observe: Observer) -> np.ndarray:
        """Return the logits, (N, classes); `observe` as in `asqcli.engine.session`."""
        for name, layer in quant_layers(self.model):
            layer.observe = _observer(name, observe)
        try:
            return logits_before_log_softmax(self.model, torch.from_numpy(inputs)).numpy()
        finally:
            for _, layer in quant_layers(self.model):
                layer.observe = None


def _observer(name: str, observe: Observer) -> Callable[[Tensor, Tensor], None]:
    def seen(codes: Tensor, accumulator: Tensor) -> None:
        # A copy: what the network does in place afterwards may write into them.
        observe(name, codes.numpy().copy(), accumulator.numpy().copy())

    return seen
