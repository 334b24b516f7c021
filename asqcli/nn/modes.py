"""Training and evaluation mode. What a network's own `train` and `eval` return is never used: it may be None."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn

from asqcli.errors import UnsupportedError
from asqcli.nn.held_weights import weights_held
from asqcli.user_code import guest


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Hold `model` in evaluation mode, and its quantized weights; afterwards each module is in the mode it was in."""
    with modes_held(model):
        to_evaluation(model)
        with weights_held():
            yield


@contextmanager
def modes_held(model: nn.Module) -> Generator[None]:
    """Let each module be in the mode afterwards that it is in now."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def to_evaluation(model: nn.Module) -> None:
    """Put `model` into evaluation mode.

    Raises:
        UnsupportedError: its own `eval` raises, or leaves a module in training mode.
    """
    with guest("the network's `eval()` raised"):
        model.eval()
    for name, module in model.named_modules():
        if module.training:
            where = f"layer `{name}` ({type(module).__name__})" if name else "the network itself"
            raise UnsupportedError(
                f"{where} is still in training mode after the network's `eval()`",
                "an answer must not depend on the batch that it comes in: let `eval()` reach every module",
            )


def to_training(model: nn.Module) -> None:
    """Put `model` into training mode, as its author has it: what a `train` of its own freezes stays frozen.

    Raises:
        UnsupportedError: its own `train` raises.
    """
    with guest("the network's `train()` raised"):
        model.train()


def modes_in_training(model: nn.Module) -> dict[str, bool]:
    """Return which modules train after `model.train()`, by name; the modes stay as they are."""
    with modes_held(model):
        to_training(model)
        return {name: module.training for name, module in model.named_modules(remove_duplicate=False)}
