"""`asq recipe keys`. What the other words print is tested where recipes are read and resolved."""

from pathlib import Path

from asq_process import asq

import asqcli.recipe
from asqcli.recipe.keys import recipe_keys


def test_keys_are_printed_as_a_table_and_as_the_file(tmp_path):
    done = asq("recipe", "keys", "--markdown", cwd=tmp_path)
    assert done.stdout == Path(asqcli.recipe.__file__).with_name("KEYS.md").read_text(encoding="utf-8")
    table = asq("recipe", "keys", cwd=tmp_path).stdout
    assert all(f"│ {key.path} " in table for key in recipe_keys())
