"""The table of keys, against recipes that were resolved, and KEYS.md against the table."""

from pathlib import Path

import pytest

import asqcli.recipe
from asqcli.recipe.keys import DEPENDS, REQUIRED, Key, markdown, recipe_keys
from asqcli.recipe.resolve import Request, resolve

KEYS = {key.path: key for key in recipe_keys()}


def dotted(section: dict, inside: str = ""):
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from dotted(value, f"{inside}{key}.")
        else:
            yield inside + key, value


@pytest.mark.parametrize("scheme", ["post", "asq", "pot", "apot", "lsq"])
def test_every_key_of_a_resolved_recipe_is_tabled_with_its_default(scheme):
    overrides = ["train.distillation.weight=0.5"]
    recipe = resolve(Request("resnet20", None, scheme, None, {}, overrides)).recipe
    for path, value in dotted(recipe.model_dump(mode="json")):
        key = KEYS[path]
        if key.default not in (DEPENDS, REQUIRED) and not path.endswith(".quantizer"):
            shown = "off" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"
            assert key.default == shown, path


def test_values_bounds_and_owners():
    assert KEYS["weights.bits"].values == "`lsq`: whole number 2 to 8; `post`, `pot`, `apot`: whole number 2 to 4"
    assert KEYS["weights.quantizer"].values == "`lsq`, `post`, `pot`, `apot`, `float`"
    assert KEYS["weights.levels"].meaning.startswith("(`post`, `pot`) ")
    assert KEYS["activations.adapter.hidden"].values == "`quarter`, or whole number 1 to 16384"
    assert KEYS["train.batch_norm_batches"].values == "whole number from 0, or `auto`"
    assert KEYS["train.lr"] == Key("train.lr", "number above 0", DEPENDS, "learning rate, at the start of the cosine")


def test_the_file_holds_the_table():
    file = Path(asqcli.recipe.__file__).with_name("KEYS.md")
    assert file.read_text(encoding="utf-8") == markdown(recipe_keys()), "asq recipe keys --markdown > KEYS.md"
