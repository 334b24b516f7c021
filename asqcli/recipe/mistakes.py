"""What pydantic found, in our words: what was given, where, what is allowed, and a hint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, get_args

from pydantic import BaseModel

from asqcli.errors import did_you_mean
from asqcli.quant.bounds import MAX_BITS
from asqcli.quant.spec import LevelWeights
from asqcli.recipe.schema import Activations, LayerRule, Recipe, Weights

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Mistake = tuple[str, str | None]  # message, hint
Keys = tuple[str, ...]
OPERANDS: dict[str, Any] = {"weights": Weights, "activations": Activations}

_BOUNDS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
}
_ABOVE_FOUR_BITS = (
    "above 4 bits the levels near zero lie closer than the step of 8-bit codes and gain nothing; "
    "use `quantizer: lsq` for the weights (`--scheme asq`)"
)
_TYPES = {
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "string_too_short": "text",
    "string_unicode": "text in UTF-8",
    "bool_type": "true or false",
    "dict_type": "a section of keys",
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "a list of three numbers",
    "too_long": "a list of three numbers",
}


class Source(Protocol):
    """What a message needs to know of the draft: the values, and where each came from."""

    @property
    def values(self) -> Mapping[str, Any]: ...

    def where(self, path: Keys) -> str: ...


def models_by_quantizer(operand: str) -> dict[str, type[BaseModel]]:
    """Return the section models of `weights` or `activations` by the name of their quantizer."""
    members = get_args(get_args(OPERANDS[operand])[0])
    return {member.model_fields["quantizer"].default: member for member in members}


def mistake_in_words(
    error: ErrorDetails, source: Source, *, inside: Keys = (), model: type[BaseModel] = Recipe
) -> Mistake:
    """Turn one of pydantic's errors into (message, hint).

    Args:
        error: an entry of `ValidationError.errors()`.
        inside: the path of the section that was checked, when it was not the whole recipe.
        model: of the whole, where that is no recipe.
    """
    location = tuple(map(str, error["loc"]))
    path = _key_path((*inside, *location))
    key, where, given, kind = ".".join(path), source.where(path), error.get("input"), error["type"]
    limits = error.get("ctx", {})
    if given is None or isinstance(given, bool):
        given = json.dumps(given)  # as YAML has it, not as Python
    operand = next((p for p in path if p in OPERANDS), None)
    if kind == "extra_forbidden":
        known = _known_keys(model, path[:-1], location)
        return f"unknown key `{key}`{where}", did_you_mean(path[-1], known) or f"known keys: {', '.join(known)}"
    if kind == "missing" and path[-1].isdigit():
        return f"`{'.'.join(path[:-1])}` is `{list(given)}`{where}, it must be a list of three numbers", None
    if kind == "missing":
        return f"`{key}` is missing", None
    if kind == "union_tag_invalid" and operand is not None:
        choices = list(models_by_quantizer(operand))
        tag, where = str(limits["tag"]), source.where((*path, "quantizer"))
        return f"`{key}.quantizer` is `{tag}`{where}, choose {', '.join(choices)}", did_you_mean(tag, choices)
    if kind == "literal_error":
        choices = [str(c) for c in _literal_choices(limits["expected"])]
        return f"`{key}` is `{given}`{where}, choose {', '.join(choices)}", did_you_mean(str(given), choices)
    if kind in _BOUNDS and path[-1] == "bits" and operand is not None:
        return _wrong_bits(key, where, error["input"], models_by_quantizer(operand)[location[-2]])
    if kind in _BOUNDS:
        plain = {k: f"{v:g}" if isinstance(v, float) else v for k, v in limits.items()}
        return f"`{key}` is {given}{where}, it must be {_BOUNDS[kind].format(**plain)}", None
    if kind in _TYPES:
        return f"`{key}` is `{given}`{where}, it must be {_TYPES[kind]}", None
    reason = error["msg"].removeprefix("Value error, ")
    if isinstance(given, dict):  # its keys do not go together
        return f"`{key}`{where}: {reason}" if key else reason, None
    return f"`{key}` is `{given}`{where}, {reason}", None


def _wrong_bits(key: str, where: str, given: int, model: type[BaseModel]) -> Mistake:
    bounds = model.model_fields["bits"].metadata
    least, most = (next(getattr(b, name) for b in bounds if hasattr(b, name)) for name in ("ge", "le"))
    has_levels = issubclass(model, LevelWeights)
    levels = f" with {model.model_fields['quantizer'].default.upper()} levels" if has_levels else ""
    message = f"`{key}` is {given}{where}, choose {least} to {most}{levels}"
    if given > MAX_BITS:
        return message, "for an unquantized layer use `quantizer: float`"
    return message, _ABOVE_FOUR_BITS if has_levels and given > most else None


def _key_path(location: Keys) -> Keys:
    """Cut out the quantizer's name, which pydantic puts between the section and the key."""
    for place, (part, following) in enumerate(pairwise(location)):
        if part in OPERANDS and following in models_by_quantizer(part):
            return (*location[: place + 1], *location[place + 2 :])
    return location


def _literal_choices(expected: str) -> list[str]:
    """Read pydantic's "'a', 'b' or 'c'"."""
    return [choice.strip("' ") for choice in expected.replace(" or ", ",").split(",")]


def _section_model(annotation: Any) -> type[BaseModel]:
    """Return the model of a section, which may be optional, or one of several that have names."""
    members = get_args(annotation) or (annotation,)
    return next(t for t in members if isinstance(t, type) and issubclass(t, BaseModel))


def _known_keys(model: type[BaseModel], section: Keys, location: Keys) -> list[str]:
    """Return the keys of the section in which an unknown one was found, in a file of a model."""
    for key in section:
        if key in OPERANDS:
            quantizer = next(p for p in location if p in models_by_quantizer(key))
            model = models_by_quantizer(key)[quantizer]
        elif key == "layers":
            model = LayerRule  # the pattern that follows is no key of it
        elif key in model.model_fields:
            model = _section_model(model.model_fields[key].annotation)
    return list(model.model_fields)
