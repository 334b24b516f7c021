"""Name patterns to the settings of each layer: `weights` and `activations`, then the first and last layer's policy,
then rules.

layers:
  layer1.*: {weights: {bits: 3}}          later rules lie over earlier ones
  conv1: {activations: {quantizer: float}}
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import ClassVar

from pydantic import TypeAdapter, ValidationError

from asqcli.errors import RecipeError, did_you_mean
from asqcli.quant.spec import LsqActivations, UniformWeights
from asqcli.recipe.mistakes import OPERANDS, Mistake, Source, mistake_in_words, models_by_quantizer
from asqcli.recipe.schema import FloatOperand, Quantization

SHOWN_NAMES = 5
_END_LAYERS = {"weights": UniformWeights(bits=8), "activations": LsqActivations(bits=8)}


@dataclass(frozen=True)
class LayerSettings:
    """One layer's settings in plain values; None for float."""

    weights: dict | None
    activations: dict | None


def drop_inapplicable(section: dict, quantizer: str | None, operand: str) -> None:
    """Before `quantizer` is laid over `section`, take out the keys that it does not know."""
    model = models_by_quantizer(operand).get(quantizer) if isinstance(quantizer, str) else None
    if model is not None and section.get("quantizer") != quantizer:
        for key in section.keys() - model.model_fields.keys():
            del section[key]


def resolve_layers(recipe: Quantization, names: list[str], source: str) -> dict[str, LayerSettings]:
    """Return the settings of each layer.

    Args:
        names: of the layers that can be quantized, in the order of execution.
        source: where the recipe came from, for error messages.
    Raises:
        RecipeError: patterns match no layer, or a rule does not fit what lies under it.
    """
    dead = [pattern for pattern in recipe.layers if not fnmatch.filter(names, pattern)]
    shown = names if len(names) <= SHOWN_NAMES else [*names[: SHOWN_NAMES - 1], "..", names[-1]]
    listed = f"the layers are {', '.join(shown)}"
    mistakes = [
        (f"the rule `layers.{p}` in {source} matches no layer", did_you_mean(p.replace("*", ""), names) or listed)
        for p in dead
    ]
    ends, settings = {names[0], names[-1]}, {}
    for name in names:
        operands = {}
        for operand in OPERANDS:
            section = _base(recipe, operand, at_end=name in ends)
            for pattern, rule in recipe.layers.items():
                if fnmatch.fnmatchcase(name, pattern):
                    section, wrong = _overlay_rule(section, getattr(rule, operand), operand, pattern, _Plain())
                    mistakes += [m for m in wrong if m not in mistakes]
            operands[operand] = None if section["quantizer"] == "float" else section
        settings[name] = LayerSettings(**operands)
    if mistakes:
        raise RecipeError(mistakes, source)
    return settings


def rule_mistakes(source: Source) -> list[Mistake]:
    """Return what is wrong with the rules of a draft as far as that shows without a network.

    A rule may match the first or the last layer, so one that fits their policy is not wrong.
    """
    mistakes = []
    for pattern, rule in source.values["layers"].items():
        for operand in OPERANDS:
            change = rule.get(operand) if isinstance(rule, dict) else None
            bases = source.values[operand], _END_LAYERS[operand].model_dump()
            base_is_sound = not _overlay_rule(bases[0], {}, operand, pattern, source)[1]
            if isinstance(change, dict) and base_is_sound:
                wrong = [_overlay_rule(base, change, operand, pattern, source)[1] for base in bases]
                mistakes += wrong[0] if all(wrong) else []
    return mistakes


def _overlay_rule(
    section: dict, change: dict, operand: str, pattern: str, source: Source
) -> tuple[dict, list[Mistake]]:
    """Return the section with a rule's change laid over it, and the mistakes in it."""
    section = dict(section)
    drop_inapplicable(section, change.get("quantizer"), operand)
    for key, value in change.items():
        both_sections = isinstance(value, dict) and isinstance(section.get(key), dict)
        section[key] = {**section[key], **value} if both_sections else value
    try:
        checked = TypeAdapter(OPERANDS[operand]).validate_python(section)
    except ValidationError as error:
        inside = ("layers", pattern, operand)
        return section, [mistake_in_words(e, source, inside=inside) for e in error.errors()]
    return checked.model_dump(), []


def _base(recipe: Quantization, operand: str, *, at_end: bool) -> dict:
    """Return the section that rules are laid over: the recipe's own, or the first and last layer's."""
    own = getattr(recipe, operand)
    if not at_end or own.quantizer == "float":
        return own.model_dump()
    if recipe.first_last == "float":
        return FloatOperand().model_dump()
    if recipe.first_last == "same":
        # The first and last layers never have an adapter.
        return (LsqActivations(bits=own.bits) if own.quantizer == "asq" else own).model_dump()
    return _END_LAYERS[operand].model_dump()


class _Plain:
    """A source that names no place: the rule's own path says enough."""

    values: ClassVar[dict] = {}

    def where(self, path) -> str:
        return ""
