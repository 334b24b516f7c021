"""What differs between two recipes, in words."""

from __future__ import annotations

import json
from typing import Any

from asqcli.recipe.schema import Recipe

SHOWN_KEYS = 8  # that differ


def changes_in_words(before: Recipe, after: Recipe) -> str | None:
    """Return the keys that differ between two recipes, with both their values; None where they are the same."""
    if before == after:
        return None
    old, new = (_flat(recipe.model_dump(mode="json")) for recipe in (before, after))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    changed = [f"`{key}` {json.dumps(old.get(key))} -> {json.dumps(new.get(key))}" for key in keys[:SHOWN_KEYS]]
    more = f", and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return f"{', '.join(changed)}{more}"


def _flat(section: dict[str, Any], inside: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{inside}{key}.") if isinstance(value, dict) else {inside + key: value}
    return flat
