"""What must hold of a float network before a run of it is worth its time; looked at before the run's folder is made."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asqcli.errors import UnsupportedError, some_of
from asqcli.models.state import load_state, refuse_unsaveable
from asqcli.nn.forward import forward_in_evaluation
from asqcli.nn.modes import evaluating, modes_held, to_training
from asqcli.nn.survey import QUANTIZABLE
from asqcli.seeds import generator_states, held_generators, seed_everything
from asqcli.train.forward import backward_in_training, forward_in_training, has_auxiliary_outputs, pick_logits
from asqcli.user_code import guest

TRIES = 16  # evaluations of a network that draws random numbers, before they count as without effect


def require_trainable(
    model: nn.Module, *, batch_size: int, image_size: int, classes: int, tell: Callable[[str], None]
) -> None:
    """Find out whether a float network can be trained, kept, and evaluated twice alike; it stays as it is.

    Args:
        batch_size: of training; two images are enough here.
        tell: hears what the user should know.
    Raises:
        UnsupportedError: it cannot; says what to do.
    """
    _look_at_parameters(model, tell)
    refuse_unsaveable(model)
    with held_generators(), held_tensors(model):
        seed_everything(0)
        images = torch.randn(min(batch_size, 2), 3, image_size, image_size)
        _require_same_answers(model, images[:1], tell)
        with _all_in_its_state(model, images[:1]):
            _require_gradients(model, images, classes, tell)


def _look_at_parameters(model: nn.Module, tell: Callable[[str], None]) -> None:
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32 and (parameter.is_floating_point() or parameter.is_complex()):
            raise UnsupportedError(
                f"the parameter `{name}` is of type {parameter.dtype}; asq trains in float32",
                "end the factory with `model.float()`",
            )
    frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    if parameters and len(frozen) == len(parameters):
        raise UnsupportedError(
            f"all {len(frozen)} parameters of the network are frozen (`requires_grad` is False)",
            "training needs some that may move: `parameter.requires_grad_(True)`",
        )
    if frozen:
        tell(
            f"{len(frozen)} of {len(parameters)} parameters are frozen (`requires_grad` is False) and stay as they "
            f"are: {some_of(frozen)}"
        )


def _require_same_answers(model: nn.Module, image: Tensor, tell: Callable[[str], None]) -> None:
    """Refuse a network that draws random numbers in evaluation, and tell of autocast inside."""
    cast: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            if torch.is_autocast_enabled("cpu"):
                cast.append(name)

        return hook

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, QUANTIZABLE)]
    hooks = [module.register_forward_pre_hook(look(name)) for name, module in layers]
    try:
        with evaluating(model):
            first = forward_in_evaluation(model, image)
            for seed in range(TRIES):
                seed_everything(seed)
                before = generator_states()
                if not torch.allclose(first, forward_in_evaluation(model, image), rtol=0, atol=0, equal_nan=True):
                    raise UnsupportedError(
                        "two evaluations of one image differ: the network draws random numbers in evaluation, or keeps "
                        "something from one to the next",
                        "an answer must depend on the image alone: `F.dropout(x, training=self.training)`",
                    )
                if generator_states() == before:
                    break
    finally:
        for hook in hooks:
            hook.remove()
    if cast:
        names = list(dict.fromkeys(cast))
        tell(f"autocast is on inside the network; quantized layers compute in float32 all the same: {some_of(names)}")


@contextmanager
def _all_in_its_state(model: nn.Module, image: Tensor) -> Generator[None]:
    """Let a forward in training change no more of the network than its state dict holds, and gives back."""

    def answer() -> Tensor:
        with evaluating(model):
            return forward_in_evaluation(model, image)

    before, state = answer(), copy.deepcopy(model.state_dict())
    hidden = {name: buffer.clone() for name, buffer in model.named_buffers() if name not in state}
    yield
    with guest("the network does not take back its own state:"):
        load_state(model, state)
    if torch.allclose(before, answer(), rtol=0, atol=0, equal_nan=True):
        return
    changed = [name for name, buffer in model.named_buffers() if name in hidden and not hidden[name].equal(buffer)]
    other = "an attribute, or what hooks on its state dict do"
    where = f"what is not persistent, {some_of(changed)}" if changed else other
    raise UnsupportedError(
        "the network's state dict does not hold all that training changes: with its state of before a forward in "
        f"training it answers otherwise: {where}",
        "a checkpoint could not be opened again: `register_buffer` whatever answers depend on",
    )


def _require_gradients(model: nn.Module, images: Tensor, classes: int, tell: Callable[[str], None]) -> None:
    """Take half a step: the loss of a batch and its gradients, which are thrown away."""
    with modes_held(model), torch.enable_grad():
        to_training(model)
        output = forward_in_training(model, images)
        logits = pick_logits(output, len(images), classes)
        loss = F.cross_entropy(logits, torch.zeros(len(images), dtype=torch.int64))
        grads = [parameter.grad for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.grad = None  # to which the backward would add
        try:
            backward_in_training(loss)
        finally:
            for parameter, grad in zip(model.parameters(), grads, strict=True):
                parameter.grad = grad
    if has_auxiliary_outputs(output):
        tell(
            f"in training the network returns several outputs ({type(output).__name__}): the logits among them are "
            "trained, the others are left out"
        )


@contextmanager
def held_tensors(model: nn.Module) -> Generator[None]:
    """Let parameters and buffers be afterwards what they are; a forward in training moves statistics.

    Raises:
        UnsupportedError: one of them cannot be written.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
            raise UnsupportedError(
                f"several elements of `{name}` lie in one place of memory, as `expand` leaves them",
                "none of them could be written: give it a memory of its own by `.clone()`",
            )
    held: list[tuple[dict[str, Any], str, Tensor, Tensor]] = [
        (tensors, name, tensor, tensor.detach().clone())
        for module in model.modules()
        for tensors in (module._parameters, module._buffers)
        for name, tensor in tensors.items()
        if tensor is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensors, name, tensor, copy in held:
                tensor.copy_(copy)
                tensors[name] = tensor
