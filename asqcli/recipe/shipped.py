"""The recipes and studies that come with the package: of the files in one folder, those named `study_*` are studies."""

from __future__ import annotations

from pathlib import Path

import asqcli
from asqcli.errors import InputError, UsageError, did_you_mean

STUDY = "study_"


def shipped_recipes() -> dict[str, Path]:
    """Return name to file, sorted by name."""
    return {name: file for name, file in _shipped().items() if not name.startswith(STUDY)}


def shipped_studies() -> dict[str, Path]:
    """Return name to file, sorted by name."""
    return {name: file for name, file in _shipped().items() if name.startswith(STUDY)}


def _shipped() -> dict[str, Path]:
    package = Path(asqcli.__file__).parent
    installed, checkout = package / "recipes", package.parent / "recipes"
    folder = installed if installed.is_dir() else checkout
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """Return the file of a shipped recipe's name, or of a path.

    Raises:
        InputError: neither exists.
    """
    return _find(name, shipped_recipes(), "recipe")


def find_study(name: str) -> Path:
    """Return the file of a shipped study's name, or of a path.

    Raises:
        InputError: neither exists.
    """
    return _find(name, shipped_studies(), "study")


def find_shipped(name: str) -> Path:
    """Return the file of a shipped recipe's or study's name, or of a path.

    Raises:
        InputError: none of them exists.
    """
    return _find(name, _shipped(), "recipe")


def _find(name: str, shipped: dict[str, Path], what: str) -> Path:
    path = Path(name)
    if name in shipped:
        return shipped[name]
    if path.is_file():
        return path
    if name in _shipped():
        other, command = ("study", "asq study") if name.startswith(STUDY) else ("recipe", "asq quantize --recipe")
        raise UsageError(f"`{name}` is a {other}, no {what}", f"`{command} {name}`")
    is_path = path.suffix in (".yaml", ".yml") or len(path.parts) > 1
    raise (InputError if is_path else UsageError)(
        f"no {what} or file `{name}`",
        did_you_mean(path.stem, shipped) or "`asq recipe list` shows those that come with asq",
    )


def header(path: Path) -> list[str]:
    """Return the comment lines at the top of a recipe or study, without their marks."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    return lines
