"""Name patterns to the spec of each layer: `weights` and `activations`, then the first and last layer's policy, then
rules.

layers:
  layer1.*: {weights: {bits: 3}}          later rules lie over earlier ones
  conv1: {activations: {quantizer: float}}
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from asqcli.errors import RecipeError, did_you_mean
from asqcli.quant.spec import LayerSpec, LsqActivations, UniformWeights
from asqcli.recipe.mistakes import OPERANDS, Keys, Mistake, Source, mistake_in_words, models_by_quantizer
from asqcli.recipe.schema import FloatOperand, Quantization
from asqcli.strict import Strict

Section = Strict | dict[str, Any]  # a layer's `weights` or `activations`, checked or not yet

SHOWN_NAMES = 5
_FLOAT = FloatOperand()
_END_LAYERS = {"weights": UniformWeights(bits=8), "activations": LsqActivations(bits=8)}


class Layer(Protocol):
    """What is known of a layer that can be quantized: name and kind, as in a LayerSpec, and its input's channels."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def in_channels(self) -> int: ...


def drop_inapplicable(section: dict[str, Any], quantizer: object, operand: str) -> None:
    """Before `quantizer` is laid over `section`, take out the keys that it does not know."""
    model = models_by_quantizer(operand).get(quantizer) if isinstance(quantizer, str) else None
    if model is not None and section.get("quantizer") != quantizer:
        for key in section.keys() - model.model_fields.keys():
            del section[key]


def resolve_layers(recipe: Quantization, layers: Sequence[Layer], *, source: str) -> list[LayerSpec]:
    """Return the spec of each layer; signedness is not known yet.

    Args:
        layers: those that can be quantized, in the order of execution: the first and the last are special.
        source: where the recipe came from, for error messages.
    Raises:
        RecipeError: patterns match no layer, or a rule does not fit what lies under it.
    """
    names = [layer.name for layer in layers]
    mistakes = _unmatched(recipe, names, source)
    operands: list[dict[str, Any]] = []
    for name in names:
        own: dict[str, Any] = {}
        for operand in OPERANDS:
            section, wrong = _operand(recipe, operand, name, at_end=name in (names[0], names[-1]))
            mistakes += [m for m in wrong if m not in mistakes]
            own[operand] = None if section == _FLOAT else section
        operands.append(own)
    if mistakes:
        raise RecipeError(mistakes, source)
    return [_spec(layer, own) for layer, own in zip(layers, operands, strict=True)]


def _spec(layer: Layer, operands: dict[str, Any]) -> LayerSpec:
    spec = LayerSpec.model_validate({"name": layer.name, "kind": layer.kind, **operands})
    return spec.with_adapter(spec.adapter.bounded(layer.kind, layer.in_channels)) if spec.adapter else spec


def _unmatched(recipe: Quantization, names: list[str], source: str) -> list[Mistake]:
    """Return the rules that match no layer."""
    shown = names if len(names) <= SHOWN_NAMES else [*names[: SHOWN_NAMES - 1], "..", names[-1]]
    listed = f"the layers are {', '.join(shown)}"
    return [
        (f"the rule `layers.{p}` in {source} matches no layer", did_you_mean(p.replace("*", ""), names) or listed)
        for p in recipe.layers
        if not fnmatch.filter(names, p)
    ]


def _operand(recipe: Quantization, operand: str, name: str, *, at_end: bool) -> tuple[Section, list[Mistake]]:
    """Return one layer's `weights` or `activations` under all rules that match it, and the mistakes in these."""
    section: Section = _base(recipe, operand, at_end=at_end)
    mistakes: list[Mistake] = []
    for pattern, rule in recipe.layers.items():
        if fnmatch.fnmatchcase(name, pattern):
            section, wrong = _overlay_rule(section, getattr(rule, operand), operand, pattern, _Plain())
            mistakes += wrong
    return section, mistakes


def rule_mistakes(source: Source) -> list[Mistake]:
    """Return what is wrong with the rules of a draft as far as that shows without a network.

    A rule may match the first or the last layer, so one that fits their policy is not wrong.
    """
    mistakes: list[Mistake] = []
    for pattern, rule in source.values["layers"].items():
        for operand in OPERANDS:
            change = rule.get(operand) if isinstance(rule, dict) else None
            bases = source.values[operand], _END_LAYERS[operand]
            base_is_sound = not _overlay_rule(bases[0], {}, operand, pattern, source)[1]
            if isinstance(change, dict) and base_is_sound:
                wrong = [_overlay_rule(base, change, operand, pattern, source)[1] for base in bases]
                mistakes += wrong[0] if all(wrong) else []
    return mistakes


def _overlay_rule(
    base: Section, change: dict[str, Any], operand: str, pattern: str, source: Source
) -> tuple[Section, list[Mistake]]:
    """Return what a rule's change makes of what lies under it, checked; or unchecked, and the mistakes in it."""
    section: dict[str, Any] = base.model_dump() if isinstance(base, Strict) else dict(base)
    drop_inapplicable(section, change.get("quantizer"), operand)
    for key, value in change.items():
        both_sections = isinstance(value, dict) and isinstance(section.get(key), dict)
        section[key] = {**section[key], **value} if both_sections else value
    try:
        return TypeAdapter(OPERANDS[operand]).validate_python(section), []
    except ValidationError as error:
        inside = ("layers", pattern, operand)
        return section, [mistake_in_words(e, source, inside=inside) for e in error.errors()]


def _base(recipe: Quantization, operand: str, *, at_end: bool) -> Strict:
    """Return what rules are laid over: the recipe's own, or the first and last layer's."""
    own = getattr(recipe, operand)
    if not at_end or own == _FLOAT:
        return own
    if recipe.first_last == "float":
        return _FLOAT
    if recipe.first_last == "same":
        # The first and last layers never have an adapter.
        return LsqActivations(bits=own.bits) if own.quantizer == "asq" else own
    return _END_LAYERS[operand]


@dataclass(frozen=True)
class _Plain:
    """A source that names no place: the rule's own path says enough."""

    values: Mapping[str, Any] = field(default_factory=dict)

    def where(self, path: Keys) -> str:
        return ""
