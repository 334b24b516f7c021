"""Every error that asq reports, and the exit code that goes with it.

    AsqError
    ├── CheckFailed          1  a check that the user asked for did not hold
    ├── UsageError           2  wrong command line, recipe, override or name
    │   ├── RecipeError         one or more mistakes in a recipe, told together
    │   └── BoundsError         a bit-width or range that does not exist
    ├── InputError           3  data, weights or run missing, unreadable or corrupt
    │   └── PartlyUnreadable    or some of many inputs
    ├── UnsupportedError     4  a network or layer that the tool cannot handle
    ├── DivergedError        5  the loss became NaN or infinite
    │   └── NotLearningError    or stayed at that of guessing
    ├── MachineError         6  no such device, disk full, folder not writable
    │   └── LostProcessError    or another process of a training was killed, or does not answer
    ├── CellsFailed             cells of a study failed; has the exit code of the first
    └── Interruption       130  SIGINT (or 143, SIGTERM), after a checkpoint was written

Anything else that escapes is a fault of ours: exit code 70.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Sequence
from enum import IntEnum

SHOWN_TEXTS = 5


class ExitCode(IntEnum):
    """What the shell sees. Scripts rely on these numbers."""

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    INPUT = 3
    UNSUPPORTED = 4
    DIVERGED = 5
    MACHINE = 6
    INTERNAL = 70
    INTERRUPTED = 130
    TERMINATED = 143


class AsqError(Exception):
    """A failure that the user can understand and act on.

    Args:
        message: what was given, where, and what is allowed; no full stop after a single sentence.
        hint: the next step, where there is one.

    Attributes:
        has_results: has the command printed its results, the JSON document included, before this ended it?
    """

    exit_code = ExitCode.INTERNAL
    has_results = False

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class AsqWarning(UserWarning):
    """What a user of the Python API should know; the command line prints the same on stderr."""


class CheckFailed(AsqError):
    exit_code = ExitCode.CHECK_FAILED
    has_results = True


class UsageError(AsqError):
    exit_code = ExitCode.USAGE


class RecipeError(UsageError):
    """All mistakes of one recipe.

    Args:
        mistakes: (message, hint) pairs, at least one.
        source: the file or flags that they came from, for the headline when there are several.
    """

    def __init__(self, mistakes: list[tuple[str, str | None]], source: str) -> None:
        self.mistakes = mistakes
        if len(mistakes) == 1:
            super().__init__(*mistakes[0])
        else:
            lines = [f"{len(mistakes)} mistakes in {source}"]
            lines += [f"  - {message}" + (f" ({hint})" if hint else "") for message, hint in mistakes]
            super().__init__("\n".join(lines))


class BoundsError(UsageError):
    pass


class InputError(AsqError):
    exit_code = ExitCode.INPUT


class PartlyUnreadable(InputError):
    """Some of many inputs cannot be read; the others have their results."""

    has_results = True


class UnsupportedError(AsqError):
    exit_code = ExitCode.UNSUPPORTED


class DivergedError(AsqError):
    exit_code = ExitCode.DIVERGED


class NotLearningError(DivergedError):
    pass


class MachineError(AsqError):
    exit_code = ExitCode.MACHINE


class LostProcessError(MachineError):
    pass


class CellsFailed(AsqError):
    """Some cells of a study failed; the others have their results."""

    has_results = True

    def __init__(self, code: int, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.exit_code = ExitCode(code)


class Interruption(AsqError):
    """A signal ended the command after its work was saved."""

    def __init__(self, signal_number: int, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.exit_code = ExitCode.TERMINATED if signal_number == signal.SIGTERM else ExitCode.INTERRUPTED


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str | None:
    """Return the hint that names the nearest known names, or None when nothing is near.

    Args:
        prefix: of all of them, which tells nothing of how near they are.

    >>> did_you_mean("resnet81", ["resnet18", "resnet34", "vgg11"])
    'did you mean `resnet18` or `resnet34`?'
    """
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(f'`{prefix}{n}`' for n in near)}?" if near else None


def printable(text: str) -> str:
    """Return a text without control characters: what a stranger wrote must not move the cursor of a terminal.

    Bytes of a file's name that are not UTF-8, which Python holds as lone surrogates, are shown as bytes.

    >>> printable("a\\x1b[2Jb"), printable("caf\\udce9")
    ('a\\\\x1b[2Jb', 'caf\\\\xe9')
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1].replace("\\udc", "\\x") for c in text)


def quoted(path: object) -> str:
    """Return a path or name for a message: between backticks, printable.

    >>> quoted("photos/a\\n.png")
    '`photos/a\\\\n.png`'
    """
    return f"`{printable(str(path))}`"


def ran_out_of_memory(error: BaseException) -> bool:
    """Was there too little memory? PyTorch has a class of its own for it on a GPU, and texts on the CPU."""
    text = f"{error} {error.__cause__ or error.__context__ or ''}"
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in text
        # A process that decodes images, which Linux ends first; the error comes up in whatever runs then.
        or ("DataLoader worker" in text and "by signal: Killed" in text)
    )


def some_of(texts: Sequence[str]) -> str:
    """Return the first texts of many, for a message.

    >>> some_of(["a", "b"]), some_of(["a", "b", "c", "d", "e", "f"])
    ('a; b', 'a; b; c; d; e, ..')
    """
    return "; ".join(texts[:SHOWN_TEXTS]) + (", .." if len(texts) > SHOWN_TEXTS else "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, for a message of one line."""
    return (str(error).strip().splitlines() or ["no reason given"])[0]
