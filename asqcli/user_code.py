"""Code of a network's author, run as a guest: it may fail and may change torch's settings, and the house stands."""

from __future__ import annotations

import linecache
import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from asqcli.errors import AsqError, UnsupportedError, first_line, printable, ran_out_of_memory

# Settings of the whole process that such code may leave changed: how to read and to set each.
SETTINGS = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    # None, not "cpu": that would stay behind as a mode around every call.
    (torch.get_default_device, lambda device: torch.set_default_device(None if device.type == "cpu" else device)),
    (lambda: torch.is_autocast_enabled("cpu"), lambda on: torch.set_autocast_enabled("cpu", on)),
    (lambda: torch.is_autocast_enabled("cuda"), lambda on: torch.set_autocast_enabled("cuda", on)),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_num_threads, torch.set_num_threads),
)
LIBRARIES = tuple(str(Path(file).parent) + os.sep for file in (torch.__file__, __file__))
INSTALLED = (
    Path(__file__).parent,
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)
STANDARD_LIBRARY = sysconfig.get_paths()["stdlib"] + os.sep


@contextmanager
def held_settings() -> Iterator[None]:
    """Let torch's settings be afterwards what they are."""
    before = [read() for read, _ in SETTINGS]
    try:
        yield
    finally:
        for (read, write), value in zip(SETTINGS, before, strict=True):
            if read() != value:
                write(value)


@contextmanager
def guest(what: str, hint: str | None = None) -> Iterator[None]:
    """Run code of a network's author; torch's settings are held.

    Args:
        what: how the message begins, such as "the factory `f` raised", if something is raised.
        hint: the next step then.
    Raises:
        UnsupportedError: it raised something; tells what and where.
    """
    with held_settings():
        try:
            yield
        except AsqError:
            raise
        except (Exception, SystemExit) as error:
            if ran_out_of_memory(error):
                raise
            raise UnsupportedError(f"{what} {reason_of(error)}", hint) from error


def reason_of(error: BaseException) -> str:
    """Return what was raised and where, in one line: ValueError: no, at net.py:3: `raise ValueError("no")`."""
    return printable(f"{type(error).__name__}: {first_line(error)}{place_of(error)}")


def place_of(error: BaseException) -> str:
    """Return the line of its author's source that an error came through last, or nothing where there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    if not frames:
        return ""
    last = frames[-1]
    line = linecache.getline(last.filename, last.lineno).strip()
    return f", at {Path(last.filename).name}:{last.lineno}" + (f": `{line}`" if line else "")


def _is_own(file: str) -> bool:
    """Is a file neither torch's, nor ours, nor Python's?"""
    in_python = file.startswith((STANDARD_LIBRARY, "<")) and "-packages" not in file
    return not in_python and not file.startswith(LIBRARIES)


def place_in_user_code(error: BaseException) -> str | None:
    """Return the innermost line of the user's own files that an error came through, as `file:line in function`.

    None where it came through none: what is installed is not the user's, and the command line's own libraries stand in
    every traceback.
    """
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return f"{own[-1].filename}:{own[-1].lineno} in {own[-1].name}" if own else None


def _is_users(file: str) -> bool:
    path = Path(file)
    return path.is_absolute() and not any(path.is_relative_to(folder) for folder in INSTALLED)
