"""Model, recipe, flags and overrides to one checked recipe. Needs no torch, so that mistakes are told at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asqcli.data.layout import DataTraits, data_traits
from asqcli.errors import InputError, UsageError
from asqcli.models.names import made_for_small_images
from asqcli.recipe import load
from asqcli.recipe.defaults import DEFAULT_DATA, defaults
from asqcli.recipe.schema import Recipe
from asqcli.recipe.shipped import find_recipe


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line; None where nothing was said.

    Attributes:
        flags: dotted key to (value, flag).
        overrides: the KEY=VALUE strings of `--set`.
    """

    model: str | None
    recipe: str | None
    scheme: str | None
    bits: int | None
    flags: dict[str, tuple[Any, str]]
    overrides: list[str]

    @property
    def empty(self) -> bool:
        """Was nothing asked for but, maybe, a model?"""
        given = any(value is not None for value, _ in self.flags.values())
        return not (self.recipe or self.scheme or self.bits or given or self.overrides)


@dataclass(frozen=True)
class Resolved:
    """A recipe, where it came from in words, and the text of its file."""

    recipe: Recipe
    source: str
    given: str | None


def resolve(request: Request) -> Resolved:
    """Lay built-in defaults, the recipe, flags and `--set` over each other and check the sum.

    Raises:
        UsageError: mistakes, all told together.
        InputError: the recipe or the data do not exist.
    """
    content, source, given = {}, "the command line", None
    if request.recipe:
        path = find_recipe(request.recipe)
        content, source, given = load.read_recipe(path), f"`{path}`", path.read_text(encoding="utf-8")
    draft = load.Draft()
    draft.lay(content, source.strip("`"))
    model = draft.values.get("model")
    if request.model and model not in (None, request.model):
        raise UsageError(
            f"the recipe {source} is for the model `{model}`, not `{request.model}`", "leave the model out"
        )
    if request.model:
        draft.set("model", request.model, "MODEL")
    elif model is None and not request.recipe:  # where there is one, all its mistakes are told
        raise UsageError("no model was named", "for example `asq quantize resnet18`, or give a --recipe")
    _lay_request(draft, request)
    _lay_defaults(draft)
    return Resolved(load.check(draft, source), source, given)


def resolve_again(recipe: Recipe, request: Request) -> Recipe:
    """Return what a run's stored recipe becomes when flags and overrides are laid over it."""
    draft = load.Draft()
    draft.lay(recipe.model_dump(mode="json"), "the run")
    if request.model:
        draft.set("model", request.model, "MODEL")
    _lay_request(draft, request)
    return load.check(draft, "the command line")


def _lay_request(draft: load.Draft, request: Request) -> None:
    """Lay flags, then `--set`, over the draft."""
    load.lay_scheme(draft, request.scheme, request.bits)
    for key, (value, flag) in request.flags.items():
        if value is not None:
            draft.set(key, value, flag)
    load.lay_overrides(draft, request.overrides)


def _lay_defaults(draft: load.Draft) -> None:
    """Lay what the data and the model call for under everything else."""
    data, train = draft.section(("data",)), draft.section(("train",))
    name = data.setdefault("name", DEFAULT_DATA)
    model = draft.values.get("model")
    float_only = all(draft.section((o,)).get("quantizer") == "float" for o in ("weights", "activations"))
    traits = _traits(name)
    values = defaults(
        traits.kind,
        traits.image_size,
        small_network=not isinstance(model, str) or made_for_small_images(model),
        float_only=float_only,
    )
    image_size = data.get("image_size")
    if isinstance(image_size, int) and "resize" not in data:
        values["data"]["resize"] = round(image_size * values["data"]["resize"] / values["data"]["image_size"])
    for section, own in ((values["data"], data), (values["train"], train)):
        _fill(own, section)


def _traits(name: object) -> DataTraits:
    """Return what the data are like. Data that are missing are an error once they are read: mistakes are told first."""
    try:
        return data_traits(name) if isinstance(name, str) else DataTraits("large", 224)
    except InputError:
        return DataTraits("large", 224)


def _fill(own: dict, values: dict) -> None:
    """Set the keys that are not there, section by section."""
    for key, value in values.items():
        if isinstance(value, dict):
            if isinstance(own.setdefault(key, {}), dict):
                _fill(own[key], value)
        else:
            own.setdefault(key, value)
