"""The recipes that come with the package."""

from __future__ import annotations

from pathlib import Path

import asqcli
from asqcli.errors import InputError, UsageError, did_you_mean


def shipped_recipes() -> dict[str, Path]:
    """Return name to file, sorted by name."""
    package = Path(asqcli.__file__).parent
    installed, checkout = package / "recipes", package.parent / "recipes"
    folder = installed if installed.is_dir() else checkout
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
    is_path = path.suffix in (".yaml", ".yml") or len(path.parts) > 1
    raise (InputError if is_path else UsageError)(
        f"no recipe or file `{name}`",
        did_you_mean(path.stem, shipped) or "`asq recipe list` shows those that come with asq",
    )


def header(path: Path) -> list[str]:
    """Return the comment lines at the top of a recipe, without their marks."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    return lines
