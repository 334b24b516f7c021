"""Read a recipe, lay flags and overrides over it, and tell all mistakes at once.

Mistakes are found in one pass over the merged mapping, and each names the file or the flag that its value came from.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from asqcli.errors import InputError, RecipeError, UsageError, did_you_mean
from asqcli.recipe.defaults import DEFAULT_BITS, DEFAULT_SCHEME
from asqcli.recipe.layers import drop_inapplicable, rule_mistakes
from asqcli.recipe.mistakes import OPERANDS, Keys, Mistake, mistake_in_words
from asqcli.recipe.schema import SCHEMES, Quantization, Recipe

LARGEST_INT_BITS = 64  # Python itself refuses to print numbers of some thousand digits
DEEPEST_KEY = 64  # dots; names of layers have some of their own
Checked = TypeVar("Checked", bound=Quantization)


@dataclass
class Draft:
    """A recipe before it is checked: nested mappings, and where each value came from."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Keys, str] = field(default_factory=dict)

    def overlay(self, values: dict[str, Any], origin: str, at: Keys = ()) -> None:
        """Lay a nested mapping over this one; a change of quantizer drops the keys that the new one does not know."""
        target = self.section(at)
        if len(at) == 1 and at[0] in OPERANDS:
            drop_inapplicable(target, values.get("quantizer"), at[0])
        for key, value in values.items():
            path = (*at, str(key))
            if isinstance(value, dict) and isinstance(target.get(str(key), {}), dict):
                self.origins.setdefault(path, origin)
                target.setdefault(str(key), {})
                self.overlay(value, origin, path)
            else:
                target[str(key)] = value
                self.origins[path] = origin

    def set(self, dotted: str, value: Any, origin: str) -> None:
        """Lay one value at a dotted key. In `layers.PATTERN.weights.bits` the pattern may hold dots of its own."""
        if rule := re.fullmatch(r"layers\.(.+?)\.(weights|activations)((?:\.\w+)*)", dotted):
            *parents, key = "layers", rule[1], *(rule[2] + rule[3]).split(".")
        elif isinstance(value, dict) and dotted.startswith("layers."):  # a whole rule
            *parents, key = dotted.split(".", 1)
        else:
            *parents, key = dotted.split(".")
        values: Any = {key: value}
        for parent in reversed(parents):
            values = {parent: values}
        self.overlay(values, origin)

    def origin(self, path: Keys) -> str:
        """Return where the value at `path`, or the nearest section around it, came from."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, "")

    def where(self, path: Keys) -> str:
        """Return the origin as it stands in a message: " in `mine.yaml`", " (from --bits)" or nothing."""
        origin = self.origin(path)
        if not origin:
            return ""
        return f" (from {origin})" if origin.startswith("--") else f" in `{origin}`"

    def section(self, at: Keys) -> dict[str, Any]:
        """Return the mapping at `at`, made where it is missing.

        Raises:
            RecipeError: something else stands there.
        """
        section = self.values
        for depth, key in enumerate(at, start=1):
            section = section.setdefault(key, {})
            if not isinstance(section, dict):
                path = at[:depth]
                message = f"`{'.'.join(path)}` is `{section}`{self.where(path)}, it must be a section of keys"
                raise RecipeError([(message, None)], self.origin(path))
        return section


def read_recipe(path: Path, what: str = "recipe") -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Args:
        what: to call it in errors.
    Raises:
        InputError: the file is missing or unreadable.
        UsageError: it is not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"{what} `{path}` cannot be read: {reason}") from error
    content = _parse(text, f"{what} `{path}`")
    if not isinstance(content, dict):
        raise UsageError(f"{what} `{path}` is not a mapping of keys to values")
    return content


def _parse(text: str, name: str) -> Any:
    """Return the value of a YAML text, which an error calls `name`."""
    try:
        return yaml.load(text, StrictLoader)
    except RecursionError as error:
        raise UsageError(f"{name} is nested too deeply") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"{name} is not YAML{place}: {getattr(error, 'problem', error)}") from error


class StrictLoader(yaml.SafeLoader):
    """YAML's safe subset, where a key that stands twice is an error, and so is an alias.

    An alias can stand inside of what it repeats, which has no end, or repeat what repeats others, which doubles at each
    level.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            problem = f"the alias `*{event.anchor}` is not allowed, write out what it stands for"
            raise ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int) and value.bit_length() > LARGEST_INT_BITS:
                raise ValueError
        except (ValueError, ArithmeticError, LookupError, AttributeError) as error:  # from 2001-99-99, `!!bool maybe`
            problem = f"{reprlib.repr(node.value)} cannot be read as `{node.tag.rpartition(':')[2]}`"
            raise ConstructorError(None, None, problem, node.start_mark) from error
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # `!!map [a]` is no mapping, whatever its type says.
        mapping = isinstance(node, yaml.MappingNode)  # pyright: ignore[reportUnnecessaryIsInstance]
        pairs = node.value if mapping else []
        keys = [self.construct_object(key, deep=deep) for key, _ in pairs]
        for place, (key, (key_node, _)) in enumerate(zip(keys, pairs, strict=True)):
            if key in keys[:place]:
                raise ConstructorError(None, None, f"key `{key}` stands twice", key_node.start_mark)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-4 as text; YAML 1.2, and everybody who types it, means a number.
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def scheme_values(scheme: str) -> dict[str, Any]:
    """Return the quantizers that a scheme's name stands for.

    Raises:
        UsageError: unknown scheme.
    """
    if scheme not in SCHEMES:
        raise UsageError(f"unknown scheme `{scheme}`, choose {', '.join(SCHEMES)}", did_you_mean(scheme, SCHEMES))
    weights, activations = SCHEMES[scheme]
    return {"weights": {"quantizer": weights}, "activations": {"quantizer": activations}}


def overlay_scheme(draft: Draft, scheme: str | None, bits: int | None) -> None:
    """Lay `--scheme` and `--bits`, or the defaults where the recipe says nothing, over the draft."""
    if scheme is not None:
        draft.overlay(scheme_values(scheme), "--scheme")
    for operand, quantizer in scheme_values(DEFAULT_SCHEME).items():
        section = draft.section((operand,))
        section.setdefault("quantizer", quantizer["quantizer"])
        if section["quantizer"] == "float":
            if bits is not None and scheme == "float":
                raise UsageError("`--bits` makes no sense beside `--scheme float`")
            continue
        if bits is not None:
            draft.overlay({"bits": bits}, "--bits", (operand,))
        section.setdefault("bits", DEFAULT_BITS)


def overlay_overrides(draft: Draft, overrides: Iterable[str]) -> None:
    """Lay `KEY=VALUE` strings over the draft; values are YAML.

    Raises:
        UsageError: one is not of that form.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"`--set {override}` is not of the form KEY=VALUE", "for example `--set train.epochs=2`")
        if key.count(".") > DEEPEST_KEY:
            raise UsageError(f"`--set {key[:40]}..` has {key.count('.')} dots, no key has more than {DEEPEST_KEY}")
        draft.set(key.strip(), _parse(text, f"the value of `--set {override}`"), "--set")


def check(draft: Draft, source: str, model: type[Checked] = Recipe) -> Checked:
    """Return the checked recipe.

    Args:
        model: Recipe, or Quantization for its part that concerns layers.
        source: what to call the whole in a headline over several mistakes.
    Raises:
        RecipeError: with every mistake that was found, those in layer rules included.
    """
    recipe = None
    mistakes: list[Mistake] = []
    try:
        recipe = model.model_validate(draft.values)
    except ValidationError as error:
        mistakes = [mistake_in_words(e, draft) for e in error.errors()]
    rules, operands = draft.values.get("layers"), (draft.values.get(o) for o in OPERANDS)
    if isinstance(rules, dict) and all(isinstance(o, dict) for o in operands):
        mistakes += rule_mistakes(draft)
    if recipe is None or mistakes:
        raise RecipeError(mistakes, source)
    return recipe
