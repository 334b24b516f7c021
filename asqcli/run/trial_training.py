"""A trial before training: does a forward in training call the quantized layers that evaluation calls?

A network may go another way in training, by a list of its layers, a bound method, or with a layer's weight in a product
of its own. What is quantized would then be evaluated and never trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from asqcli.errors import UnsupportedError, some_of
from asqcli.nn.layers import QuantConv2d, QuantLinear, quantized_layer
from asqcli.nn.modes import modes_held, to_training
from asqcli.nn.record import Record
from asqcli.run.preflight import TRIES, held_tensors
from asqcli.seeds import held_generators, seed_everything
from asqcli.train.forward import forward_in_training


def require_layers_in_training(run: Record) -> None:
    """Find out whether training reaches the layers that a run of a prepared network called.

    Args:
        run: in evaluation mode; its network is still prepared, and stays as it is.
    Raises:
        UnsupportedError: it never reaches some. Of a network that raises in training whoever trains it is told.
    """
    model, calls = run.model, _Calls()
    missing = [o.module for o in run.operations if o.is_layer and isinstance(o.module, QuantConv2d | QuantLinear)]
    with held_generators(), held_tensors(model), modes_held(model), torch.enable_grad():
        to_training(model)
        for seed in range(TRIES):  # a network may leave layers out at random
            seed_everything(seed)
            images = torch.randn(2, *run.input.shape[1:], device=run.input.device)
            try:
                with calls:
                    forward_in_training(model, images)
            except UnsupportedError:
                return
            missing = [layer for layer in missing if layer not in calls.layers]
            if not missing:
                return
    names = {module: name for name, module in model.named_modules()}
    raise UnsupportedError(
        f"evaluation calls the quantized layers and training does not, in {TRIES} forwards: "
        f"{some_of(list(dict.fromkeys(f'`{names[layer]}`' for layer in missing)))}",
        "what training reaches instead stays in float: call a layer by its attribute each time, and use its weight in "
        "no product of your own",
    )


class _Calls(TorchFunctionMode):
    """Notes which quantized layers are called."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: set[nn.Module] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is quantized_layer:
            self.layers.add(args[0])
        return func(*args, **(kwargs or {}))
