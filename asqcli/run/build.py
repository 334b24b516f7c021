"""The float network of a recipe, the same one whenever it is built: in the run, and by whatever opens the run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from asqcli.errors import UnsupportedError
from asqcli.models.names import is_factory
from asqcli.models.registry import build_model
from asqcli.nn.survey import survey
from asqcli.recipe.schema import Recipe
from asqcli.seeds import Stream, held_generators, seed_everything


def build_network(recipe: Recipe, classes: int, tell: Callable[[str], None] = lambda _: None) -> nn.Module:
    """Return the float network of a recipe on the CPU, with the random weights that belong to its seed.

    A network of the user's is run once, so that lazy layers, and layers that its first forward makes, are there
    before weights are loaded.

    Args:
        tell: hears of what was taken off the network.
    Raises:
        UsageError, UnsupportedError: as `build_model`; or the network cannot be run, or has no values.
    """
    seed = recipe.train.seed, Stream.INIT
    model = build_model(recipe.model, classes, seed=seed, tell=tell)
    if not is_factory(recipe.model):
        return model
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_meta and not is_lazy(tensor):
            raise UnsupportedError(f"`{name}` has a shape but no values (`device='meta'`)", "build it on the CPU")
    model.cpu()
    with held_generators():
        seed_everything(*seed, 1)  # for the weights that it draws
        survey(model, torch.zeros(1, 3, recipe.data.image_size, recipe.data.image_size))
    _require_shapes(model)
    return model


def _require_shapes(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if any(is_lazy(t) for t in chain(module.parameters(recurse=False), module.buffers(recurse=False))):
            raise UnsupportedError(
                f"the shape of layer `{name}` ({type(module).__name__}) is not known: evaluation never calls it",
                "use layers with their sizes given, or leave out what is not called",
            )
