"""Every key of a recipe, its values, default and meaning, read from the schema: what KEYS.md tables.

The walk is over pydantic's JSON schema, which has types, bounds, defaults and descriptions in one plain form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from asqcli.recipe.defaults import DEFAULT_BITS, DEFAULT_DATA, DEFAULT_SCHEME, TAUGHT, defaults
from asqcli.recipe.schema import SCHEMES, Recipe

Schema = dict[str, Any]  # a part of pydantic's JSON schema

DEPENDS = "-"  # a default that recipe/defaults.py chooses by the data and the network
REQUIRED = "must be given"
FAR = 1e6  # bounds from here on guard the arithmetic, and no reader meets them
_BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "up to", "exclusiveMaximum": "below"}

_HEAD = """\
# The keys of a recipe

`asq recipe keys --markdown` prints this file, from the descriptions in [schema.py](schema.py) and, of quantizers,
[spec.py](../quant/spec.py). How recipes are written and run: [USAGE.md](../cli/USAGE.md#recipes).

A dash is a default that depends on the data and the network: [USAGE.md](../cli/USAGE.md#defaults) tables them. A
quantizer in parentheses is the only one that has the key. Equations and sections are those of the paper. Unknown keys,
patterns that match no layer and impossible pairs are errors, all told at once; YAML's aliases are not allowed.

| key | values | default | meaning |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Key:
    """One key: where it stands (`train.warmup.lr`), what it takes, its default, what it means. All are texts."""

    path: str
    values: str
    default: str
    meaning: str


def recipe_keys() -> list[Key]:
    """Return every key of a recipe, in the order in which a recipe is written."""
    schema = Recipe.model_json_schema()
    return list(_Walk(schema["$defs"]).section(schema, ""))


def markdown(keys: list[Key]) -> str:
    """Return the text of KEYS.md."""
    rows = [(f"`{key.path}`", key.values, key.default, key.meaning) for key in keys]
    return _HEAD + "".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |\n" for row in rows)


class _Walk:
    """From a section of the JSON schema to the keys in it.

    Args:
        sections: the schema's definitions, by name.
    """

    def __init__(self, sections: Schema) -> None:
        self.sections = sections
        self.fallbacks = _fallbacks()

    def section(self, schema: Schema, inside: str) -> Iterator[Key]:
        """Yield the keys of a section that stands at the dotted path `inside`, and those of the sections in it."""
        for name, field in schema["properties"].items():
            path = f"{inside}{name}"
            if "oneOf" in field:
                yield from self._by_quantizer(field["oneOf"], path)
            elif (section := self._section_of(field)) is None:
                yield self._key(path, field)
            else:
                if field.get("default", ...) is None:
                    yield Key(path, "mapping", self.fallbacks.get(path, "off"), field["description"])
                yield from self.section(section, f"{path}.")

    def _by_quantizer(self, references: list[Schema], path: str) -> Iterator[Key]:
        """Yield the keys of `weights` or `activations`, of which each quantizer has its own."""
        sections = [self._resolve(reference["$ref"]) for reference in references]
        quantizers = {section["properties"]["quantizer"]["const"]: section for section in sections}
        quantizers["float"] = quantizers.pop("float")  # last, for it is none
        choices = [f"`{name}`: {_lower_first(s['description'].rstrip('.'))}" for name, s in quantizers.items()]
        yield self._key(f"{path}.quantizer", {"enum": list(quantizers), "description": "; ".join(choices)})
        quantized = {name: section["properties"] for name, section in quantizers.items() if name != "float"}
        for key in dict.fromkeys(key for fields in quantized.values() for key in fields if key != "quantizer"):
            owners = {name: fields[key] for name, fields in quantized.items() if key in fields}
            field = next(iter(owners.values()))
            only = "" if owners.keys() == quantized.keys() else f"({_quoted(owners)}) "
            if (section := self._section_of(field)) is not None:
                yield from (
                    Key(k.path, k.values, k.default, only + k.meaning) for k in self.section(section, f"{path}.{key}.")
                )
            else:
                plain = self._key(f"{path}.{key}", field)
                yield Key(plain.path, _values_by_owner(owners), plain.default, only + plain.meaning)

    def _key(self, path: str, field: Schema) -> Key:
        return Key(path, _values(field), self._default(path, field), field["description"])

    def _default(self, path: str, field: Schema) -> str:
        if path in self.fallbacks:
            return self.fallbacks[path]
        if "default" not in field:
            return REQUIRED
        return "off" if field["default"] is None else _value(field["default"])

    def _section_of(self, field: Schema) -> Schema | None:
        """Return the section that a key holds, which may be optional, or None where it holds a value."""
        for member in (field, *field.get("allOf", ()), *field.get("anyOf", ())):
            if "$ref" in member:
                return self._resolve(member["$ref"])
        return None

    def _resolve(self, reference: str) -> Schema:
        return self.sections[reference.rpartition("/")[2]]


def _fallbacks() -> dict[str, str]:
    """Return the defaults that are not the schema's own: dotted key to text."""
    weights, activations = SCHEMES[DEFAULT_SCHEME]
    named = {"data.name": DEFAULT_DATA, "weights.quantizer": weights, "activations.quantizer": activations}
    named |= {"weights.bits": DEFAULT_BITS, "activations.bits": DEFAULT_BITS}
    chosen = defaults(DEFAULT_DATA, 32, "usual", train={}, bits=DEFAULT_BITS, pretrained=False)
    depends = [*_dotted(chosen), *(f"train.{key}" for key in TAUGHT)]
    return dict.fromkeys(depends, DEPENDS) | {key: _value(value) for key, value in named.items()}


def _dotted(section: dict[str, Any], inside: str = "") -> Iterator[str]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{inside}{key}.")
        else:
            yield inside + key


def _values_by_owner(owners: dict[str, Schema]) -> str:
    """Return what a key takes; where that differs between quantizers, for each of them."""
    names: dict[str, list[str]] = {}
    for name, field in owners.items():
        names.setdefault(_values(field), []).append(name)
    if len(names) == 1:
        return next(iter(names))
    return "; ".join(f"{_quoted(owned)}: {values}" for values, owned in names.items())


def _values(field: Schema) -> str:
    """Return what a key takes, in words.

    >>> _values({"anyOf": [{"type": "integer", "minimum": 0}, {"const": "auto"}]})
    'whole number from 0, or `auto`'
    """
    if "anyOf" in field:
        return ", or ".join(_values(member) for member in field["anyOf"] if member.get("type") != "null")
    if "enum" in field or "const" in field:
        return ", ".join(_value(choice) for choice in field.get("enum", [field.get("const")]))
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])} numbers"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
    return f"{words.get(field['type'], 'mapping')} {_bounds(field)}".rstrip()


def _bounds(field: Schema) -> str:
    """Return the bounds of a number, in words.

    >>> _bounds({"minimum": 2, "maximum": 8}), _bounds({"exclusiveMinimum": 0, "maximum": 1})
    ('2 to 8', 'above 0, up to 1')
    """
    near = {name: field[name] for name in _BOUNDS if abs(field.get(name, FAR)) < FAR}
    if near.keys() == {"minimum", "maximum"}:
        return f"{near['minimum']:g} to {near['maximum']:g}"
    return ", ".join(f"{_BOUNDS[name]} {bound:g}" for name, bound in near.items())


def _value(value: object) -> str:
    """Return a value as a recipe has it.

    >>> _value(True), _value([0.5, 1]), _value({})
    ('`true`', '`[0.5, 1]`', '`{}`')
    """
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _lower_first(text: str) -> str:
    """Return a sentence's text as it stands inside another."""
    return text[:1].lower() + text[1:]
