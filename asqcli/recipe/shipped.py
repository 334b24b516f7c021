"""The recipes that come with the package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from asqcli.errors import InputError, did_you_mean


def shipped_recipes() -> dict[str, Path]:
    """Return name to file, sorted by name."""
    # A folder of YAML is a namespace package; an editable install adds places to it that are no folders.
    places = find_spec("asqcli.recipes").submodule_search_locations
    folder = next(path for path in map(Path, places) if path.is_dir())
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """Return the file of a shipped recipe's name, or of a path.

    Raises:
        InputError: neither exists.
    """
    path, shipped = Path(name), shipped_recipes()
    if name in shipped:
        return shipped[name]
    if path.is_file():
        return path
    raise InputError(
        f"no recipe or file `{name}`",
        did_you_mean(path.stem, shipped) or "`asq recipe list` shows those that come with asq",
    )


def header(path: Path) -> list[str]:
    """Return the comment lines at the top of a recipe, without their marks."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    return lines
