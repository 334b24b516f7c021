"""How a run that stopped goes on: the command, which names factories, as a run never imports one by itself."""

from __future__ import annotations

from pathlib import Path

from asqcli.models.names import is_factory
from asqcli.recipe.schema import Recipe
from asqcli.run.folder import RunFolder

KEY = "train.distillation.teacher"


def factory_that_teaches(recipe: Recipe) -> str | None:
    """Return the factory that the recipe names as its teacher, or None."""
    name = recipe.train.distillation.teacher if recipe.train.distillation is not None else None
    return name if name is not None and is_factory(name) else None


def resume_arguments(recipe: Recipe, run: Path) -> list[str]:
    """Return the arguments of `asq` that go on with a run."""
    model = [recipe.model] if is_factory(recipe.model) else []
    teacher = factory_that_teaches(recipe)
    beside = [] if teacher in (None, recipe.model) else ["--set", f"{KEY}={teacher}"]
    return ["quantize", *model, "--resume", str(run), *beside]


def how_to_go_on(recipe: Recipe, folder: RunFolder) -> str:
    """Return the command that goes on with a run, as a hint."""
    return f"go on with `{' '.join(['asq', *resume_arguments(recipe, folder.path)])}`"
