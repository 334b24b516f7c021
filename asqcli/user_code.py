"""Code of a network's author, run as a guest: it may fail and may change torch's settings, and the house stands."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch

from asqcli.errors import AsqError, UnsupportedError, first_line, printable, ran_out_of_memory
from asqcli.places import place_of

# Settings of the whole process that such code may leave changed: how to read and to set each.
SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    # None, not "cpu": that would stay behind as a mode around every call.
    (torch.get_default_device, lambda device: torch.set_default_device(None if device.type == "cpu" else device)),
    (lambda: torch.is_autocast_enabled("cpu"), lambda on: torch.set_autocast_enabled("cpu", on)),
    (lambda: torch.is_autocast_enabled("cuda"), lambda on: torch.set_autocast_enabled("cuda", on)),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_num_threads, torch.set_num_threads),
)


@contextmanager
def held_settings() -> Generator[None]:
    """Let torch's settings be afterwards what they are."""
    before = [read() for read, _ in SETTINGS]
    try:
        yield
    finally:
        for (read, write), value in zip(SETTINGS, before, strict=True):
            if read() != value:
                write(value)


@contextmanager
def guest(what: str, hint: str | None = None) -> Generator[None]:
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
