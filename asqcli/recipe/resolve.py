"""Model, recipe, flags and overrides to one checked recipe. Needs no torch, so that mistakes are told at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from asqcli.data.layout import DataTraits, data_traits
from asqcli.errors import InputError, UsageError
from asqcli.models.names import made_for_small_images
from asqcli.recipe import load
from asqcli.recipe.defaults import DEFAULT_BITS, DEFAULT_DATA, PREPROCESSING, defaults
from asqcli.recipe.schema import Recipe
from asqcli.recipe.shipped import find_recipe

if TYPE_CHECKING:
    from asqcli.models.meta import ClassifierTraits
    from asqcli.models.official import OfficialInput


_TRAINING = Recipe.model_fields.keys() - {"model", "pretrained", "data"}


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
    """A recipe, where it came from in words, and the text of its file.

    Attributes:
        origins: who said each value of the PREPROCESSING: a flag, a file, `the run`, `official weights`, `defaults`.
        note: what the user should know of the official weights' own preprocessing, or None.
    """

    recipe: Recipe
    source: str
    given: str | None
    origins: dict[str, str]
    note: str | None


def resolve(
    request: Request, *, measuring: bool = False, traits: Callable[[str, bool], DataTraits] = data_traits
) -> Resolved:
    """Lay built-in defaults, the recipe, flags and `--set` over each other and check the sum.

    Args:
        measuring: is a float network measured as it is, not trained? Of a recipe only the model, its weights and the
            data count then, and official weights bring their own image size whatever the data.
        traits: of a data set by its name, with labels or without; lists a folder once for each call.
    Raises:
        UsageError: mistakes, all told together.
        InputError: the recipe or the data do not exist.
    """
    content, source, given = {}, "the command line", None
    if request.recipe:
        path = find_recipe(request.recipe)
        content, source, given = load.read_recipe(path), f"`{path}`", path.read_text(encoding="utf-8")
    if measuring:
        content = {key: value for key, value in content.items() if key not in _TRAINING}
    draft = load.Draft()
    draft.overlay(content, source.strip("`"))
    model = draft.values.get("model")
    if request.model and model not in (None, request.model):
        raise UsageError(
            f"the recipe {source} is for the model `{model}`, not `{request.model}`", "leave the model out"
        )
    if request.model:
        draft.set("model", request.model, "MODEL")
    elif model is None and not request.recipe:  # where there is one, all its mistakes are told
        raise UsageError("no model was named", "for example `asq quantize resnet18`, or give a --recipe")
    _overlay_request(draft, request)
    official = _underlay_defaults(draft, measuring, traits)
    recipe = load.check(draft, source)
    return Resolved(recipe, source, given, _origins(draft, official), official.note if official else None)


def resolve_measured(recipe: Recipe, request: Request) -> tuple[Recipe, dict[str, str]]:
    """Return (a run's stored recipe with other preprocessing laid over it, as `Resolved.origins`)."""
    other = load.Draft()
    if request.recipe:
        path = find_recipe(request.recipe)
        content = load.read_recipe(path)
        if content.get("model", recipe.model) != recipe.model:
            raise UsageError(f"the recipe `{path}` is for the model `{content['model']}`, the run for `{recipe.model}`")
        other.overlay({"data": content.get("data", {})}, str(path))
        other.section(("data",)).pop("name", None)  # the run's own images, or those of --data
    load.overlay_overrides(other, request.overrides)
    data = other.section(("data",))
    if isinstance(size := data.get("image_size"), int) and "resize" not in data:
        ratio = recipe.data.resize / recipe.data.image_size
        other.set("data.resize", round(size * ratio), other.origin(("data", "image_size")))
    draft = load.Draft()
    draft.overlay(recipe.model_dump(mode="json"), "the run")
    draft.overlay(other.values, "")
    draft.origins |= other.origins
    return load.check(draft, "the command line"), _origins(draft, None)


def resolve_again(recipe: Recipe, request: Request) -> Recipe:
    """Return what a run's stored recipe becomes when flags and overrides are laid over it."""
    draft = load.Draft()
    draft.overlay(recipe.model_dump(mode="json"), "the run")
    if request.model:
        draft.set("model", request.model, "MODEL")
    _overlay_request(draft, request)
    return load.check(draft, "the command line")


def teacher_stated(request: Request) -> str | None:
    """Return the teacher that was named on the command line or in its recipe, None where neither does."""
    draft = load.Draft()
    if request.recipe:
        draft.overlay(load.read_recipe(find_recipe(request.recipe)), request.recipe)
    load.overlay_overrides(draft, request.overrides)
    distillation = draft.section(("train",)).get("distillation")
    return distillation.get("teacher") if isinstance(distillation, dict) else None


def _overlay_request(draft: load.Draft, request: Request) -> None:
    """Lay flags, then `--set`, over the draft."""
    load.overlay_scheme(draft, request.scheme, request.bits)
    for key, (value, flag) in request.flags.items():
        if value is not None:
            draft.set(key, value, flag)
    load.overlay_overrides(draft, request.overrides)


def _origins(draft: load.Draft, official: OfficialInput | None) -> dict[str, str]:
    """Return who said each value of the preprocessing."""
    origins = {}
    for key in PREPROCESSING:
        default = "official weights" if official is not None and key in official.values else "defaults"
        origins[key] = draft.origins.get(("data", key), default)
    return origins


def _official(draft: load.Draft, kind: str, measuring: bool) -> OfficialInput | None:
    """Return how the official weights that the draft asks for want their images, None where it asks for others.

    Small images are trained on at their own size: at 224 pixels the digits would take hours.
    """
    if all(key in draft.section(("data",)) for key in PREPROCESSING):
        return None
    model, wanted = draft.values.get("model"), draft.values.get("pretrained", "auto")
    if not isinstance(model, str) or made_for_small_images(model) or not isinstance(wanted, str):
        return None
    from asqcli.models.official import official_input

    found = official_input(model, wanted)
    if found is None or measuring or kind == "large":
        return found
    # Whether `auto` finds weights is not known yet; their mean and deviation suit any.
    note = None if wanted == "auto" else found.note
    return replace(found, values={key: found.values[key] for key in ("mean", "std")}, note=note)


def _underlay_defaults(
    draft: load.Draft, measuring: bool, traits_of: Callable[[str, bool], DataTraits]
) -> OfficialInput | None:
    """Lay what the data and the model call for under everything else; return what official weights had to say."""
    data, train = draft.section(("data",)), draft.section(("train",))
    name = data.setdefault("name", DEFAULT_DATA)
    model = draft.values.get("model")
    labels = data.get("labels") is not False
    traits = _traits(name, labels, traits_of)
    size, network = traits.image_size, "usual"
    sized = traits.kind != "digits" or "image_size" in data
    rated = measuring or all(isinstance(s, dict) and "lr" in s for s in (train, train.get("warmup")))
    if not (sized and rated) and (classifier := _classifier_traits(model)) is not None:
        size = size if sized else classifier.smallest_image_size
        network = "deep" if classifier.norms else "without norms"
    pretrained = draft.values.get("pretrained", "auto") not in ("auto", "none")
    bits = _fewest_bits(draft)
    values = defaults(traits.kind, size, network, train=train, bits=bits, pretrained=pretrained, labels=labels)
    official = _official(draft, traits.kind, measuring)
    if official is not None:
        values["data"] |= official.values
    image_size = data.get("image_size")
    if isinstance(image_size, int) and "resize" not in data:
        values["data"]["resize"] = round(image_size * values["data"]["resize"] / values["data"]["image_size"])
        draft.origins[("data", "resize")] = draft.origin(("data", "image_size"))
    for section, own in ((values["data"], data), (values["train"], train)):
        _fill(own, section)
    return official


def _fewest_bits(draft: load.Draft) -> int | None:
    """Return the bits of weights or activations, the fewer; None where neither is quantized."""
    quantized = [s for o in ("weights", "activations") if (s := draft.section((o,))).get("quantizer") != "float"]
    bits = [s.get("bits", DEFAULT_BITS) for s in quantized]
    return min((b if isinstance(b, int) else DEFAULT_BITS for b in bits), default=None)


def _classifier_traits(model: object) -> ClassifierTraits | None:
    """Return the traits of a network of torchvision or timm, None for other models."""
    if not isinstance(model, str) or made_for_small_images(model):
        return None
    from asqcli.models.meta import classifier_traits

    return classifier_traits(model)


def _traits(name: object, labels: bool, traits_of: Callable[[str, bool], DataTraits]) -> DataTraits:
    """Return what the data are like. Data that are missing are an error once they are read: mistakes are told first."""
    try:
        return traits_of(name, labels) if isinstance(name, str) else DataTraits("large", 224)
    except InputError:
        return DataTraits("large", 224)


def _fill(own: dict[str, Any], values: dict[str, Any]) -> None:
    """Set the keys that are not there, section by section."""
    for key, value in values.items():
        if isinstance(value, dict):
            if isinstance(own.setdefault(key, {}), dict):
                _fill(own[key], value)
        else:
            own.setdefault(key, value)
