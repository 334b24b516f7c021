"""How a run that stopped goes on, in words."""

from __future__ import annotations

from asqcli.models.names import is_factory
from asqcli.recipe.schema import Recipe
from asqcli.run.folder import RunFolder
from asqcli.run.named_teacher import KEY, factory_that_teaches


def how_to_go_on(recipe: Recipe, folder: RunFolder) -> str:
    """Return the command that goes on with a run, as a hint: it names factories, which a run never imports itself."""
    factory = f"{recipe.model} " if is_factory(recipe.model) else ""
    teacher = factory_that_teaches(recipe)
    beside = "" if teacher in (None, recipe.model) else f" --set {KEY}={teacher}"
    return f"go on with `asq quantize {factory}--resume {folder.path}{beside}`"
