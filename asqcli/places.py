"""Where in its author's source an error was raised; no torch, for the command line asks too."""

from __future__ import annotations

import linecache
import os
import sysconfig
import traceback
from importlib.util import find_spec
from pathlib import Path

INSTALLED = (
    Path(__file__).parent,
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)
STANDARD_LIBRARY = sysconfig.get_paths()["stdlib"] + os.sep


def place_of(error: BaseException) -> str:
    """Return the line of its author's source that an error came through last, or nothing where there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    if not frames:
        return ""
    last = frames[-1]
    line = linecache.getline(last.filename, last.lineno or 0).strip()
    return f", at {Path(last.filename).name}:{last.lineno}" + (f": `{line}`" if line else "")


def place_in_user_code(error: BaseException) -> str | None:
    """Return the innermost line of the user's own files that an error came through, as `file:line in function`.

    None where it came through none: what is installed is not the user's, and the command line's own libraries stand in
    every traceback.
    """
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return f"{own[-1].filename}:{own[-1].lineno} in {own[-1].name}" if own else None


def _is_own(file: str) -> bool:
    """Is a file neither torch's, nor ours, nor Python's? An installed package of networks is its author's source."""
    in_python = file.startswith((STANDARD_LIBRARY, "<")) and "-packages" not in file
    return not in_python and not file.startswith(_libraries())


def _libraries() -> tuple[str, ...]:
    torch = find_spec("torch")
    files = (__file__, *([torch.origin] if torch is not None and torch.origin else []))
    return tuple(str(Path(file).parent) + os.sep for file in files)


def _is_users(file: str) -> bool:
    path = Path(file)
    return path.is_absolute() and not any(path.is_relative_to(folder) for folder in INSTALLED)
