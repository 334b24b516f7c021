"""The float network of a recipe, the same one whenever it is built: in the run, and by whatever opens the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from asqcli.errors import UnsupportedError
from asqcli.models.factories import takes_classes
from asqcli.models.names import is_factory
from asqcli.models.registry import build_model
from asqcli.nn.head import replace_head
from asqcli.nn.survey import survey
from asqcli.recipe.schema import Recipe
from asqcli.seeds import Stream, held_generators, seed_everything


@dataclass(frozen=True)
class Built:
    """A float network as it was built.

    Attributes:
        new_head: the layer that was put in the place of one for another number of classes, if any.
    """

    model: nn.Module
    new_head: str | None


def build_network(recipe: Recipe, classes: int) -> nn.Module:
    """Return the float network of a recipe on the CPU, with the random weights that belong to its seed.

    Raises:
        UsageError, UnsupportedError: as `build_with_head`.
    """
    return build_with_head(recipe, classes).model


def build_with_head(recipe: Recipe, classes: int | None, tell: Callable[[str], None] = lambda _: None) -> Built:
    """Return the network of `build_network`, and whether its head is new.

    A network of the user's is run once, so that lazy layers, and layers that its first forward makes, are there
    before weights are loaded. It gets a new head where it was asked for so many classes and answers with others, or
    where it comes with weights of its own.

    Args:
        classes: None for the network's own number, with its own head.
        tell: hears of what was taken off the network or replaced.
    Raises:
        UsageError, UnsupportedError: as `build_model`; or the network cannot be run, or has no values.
    """
    seed = recipe.train.seed, Stream.INIT
    model = build_model(recipe.model, classes, seed=seed, tell=tell)
    if not is_factory(recipe.model):
        return Built(model, None)
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_meta and not is_lazy(tensor):
            raise UnsupportedError(f"`{name}` has a shape but no values (`device='meta'`)", "build it on the CPU")
    model.cpu()
    example = torch.zeros(1, 3, recipe.data.image_size, recipe.data.image_size)
    new_head = None
    with held_generators():
        seed_everything(*seed, 1)  # for the weights that it draws
        answer = survey(model, example).output
        _require_shapes(model)
        others = answer.shape[1] if isinstance(answer, Tensor) and answer.dim() == 2 else classes
        may_be_new = recipe.pretrained == "factory" or takes_classes(recipe.model)
        if classes is not None and others != classes and may_be_new:
            new_head = replace_head(model, example, classes)
    if new_head is not None:
        tell(f"`{recipe.model}` answers with {others} logits: a new head for {classes} classes ({new_head})")
    return Built(model, new_head)


def _require_shapes(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if any(is_lazy(t) for t in chain(module.parameters(recurse=False), module.buffers(recurse=False))):
            raise UnsupportedError(
                f"the shape of layer `{name}` ({type(module).__name__}) is not known: evaluation never calls it",
                "use layers with their sizes given, or leave out what is not called",
            )
