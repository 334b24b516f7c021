"""Files: reasons why one cannot be read, and writing so that nothing is ever half written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from asqcli.errors import InputError, MachineError, printable

PART = ".part"  # ends the name of a file that is being written


def check_readable(path: Path) -> None:
    """Open a file and close it: to safetensors one that cannot be opened is one that is not there.

    Raises:
        InputError: it cannot be opened; says why.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"`{path}` cannot be read: {error.strerror or error}") from error


def what_is_wrong(error: ValidationError) -> str:
    """Return the first thing that a file's content got wrong, and where, as one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])) or "the document"
    return printable(f"`{place}`: {first['msg']}")


@contextmanager
def machine_errors(path: Path) -> Generator[None]:
    """Turn the operating system's refusal to write `path` into a MachineError."""
    try:
        yield
    except OSError as error:
        full = "free some space; a run goes on with `--resume`"
        hint = full if error.errno == errno.ENOSPC else "choose another place to write to"
        raise MachineError(f"cannot write `{path}`: {error.strerror or error}", hint) from error


def write_atomically(
    path: Path, content: bytes | Callable[[Path], object], *, check: Callable[[Path], object] = lambda _: None
) -> None:
    """Write a file so that its name holds the old content or the new, never a part.

    Args:
        content: or what writes it to the path that it is given.
        check: looks at what was written before it gets its name; where it raises, nothing is kept of it.
    Raises:
        MachineError: disk full, folder not writable; the old content stays.
    """
    part = path.with_name(path.name + PART)
    with machine_errors(path):
        path.parent.mkdir(exist_ok=True)
        try:
            if isinstance(content, bytes):
                part.write_bytes(content)
            else:
                content(part)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            check(part)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
