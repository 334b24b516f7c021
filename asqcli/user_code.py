"""Whose code raised: a network is code of the user's, and what it raises is no fault of asq."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

import asqcli

_LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")
_OTHERS = (Path(asqcli.__file__).parent, *(Path(sysconfig.get_path(name)) for name in _LIBRARIES))


def place_in_user_code(error: BaseException) -> str | None:
    """Return the innermost line of the user's own files that `error` came through, as `file:line in function`.

    None where it came through none: asq, PyTorch and whatever else is installed are not the user's.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_users(frame.filename)]
    return f"{own[-1].filename}:{own[-1].lineno} in {own[-1].name}" if own else None


def _is_users(filename: str) -> bool:
    path = Path(filename)
    return path.is_absolute() and not any(path.is_relative_to(folder) for folder in _OTHERS)
