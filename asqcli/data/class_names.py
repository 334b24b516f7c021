"""Names of classes: what may be one, a file of them, and those of a data set among those of a network."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asqcli.errors import InputError, UsageError, quoted, some_of

LINE_BREAKERS = ("Cc", "Zl", "Zp")  # categories of characters: control, line and paragraph separators


def not_text(name: str) -> str | None:
    """Return what keeps a name from being stored and shown as text, in words, or None."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "bytes that are not UTF-8"
    return "a control character" if any(unicodedata.category(c) in LINE_BREAKERS for c in name) else None


def read_class_names(path: str) -> tuple[str, ...]:
    """Return the names in a file, one a line, the class 0 first; empty lines at the end do not count.

    Raises:
        InputError: it is missing, no text, or has empty lines or one name twice.
    """
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except OSError as error:
        raise InputError(f"the class names in {quoted(path)} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the class names in {quoted(path)} are not text in UTF-8") from error
    for number, name in enumerate(names, start=1):
        fault = "nothing" if not name else not_text(name)
        if fault is not None:
            raise InputError(f"line {number} of {quoted(path)} has {fault} in place of a class name", "one name a line")
    if twice := [quoted(name) for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{quoted(path)} names these classes more than once: {some_of(twice)}")
    return tuple(names)


def renamed(classes: tuple[str, ...], file: str | None, source: str) -> tuple[str, ...]:
    """Return a network's class names: its own, or those in a file where they are numbers that nobody gave a name.

    Args:
        source: of the network, named in errors.
    Raises:
        UsageError: it has names.
        InputError: as `read_class_names`, or the file has another number of names.
    """
    if file is None:
        return classes
    if not are_numbers(classes):
        raise UsageError(f"`{source}` names its classes itself", "leave out --classes")
    names = read_class_names(file)
    if len(names) != len(classes):
        raise InputError(
            f"{quoted(file)} names {len(names):,} classes, and `{source}` has {len(classes):,}",
            "one name a line, in the order of the logits",
        )
    return names


def are_numbers(classes: Sequence[str]) -> bool:
    """Are classes called 0, 1 and so on, as where nobody named them?"""
    return list(classes) == [str(number) for number in range(len(classes))]


def numbers_among(names: Sequence[str], classes: Sequence[str]) -> np.ndarray | None:
    """Return the number of each name among `classes`, (names,) int64; None where one is none of them.

    >>> numbers_among(["10", "9"], [str(number) for number in range(12)])
    array([10,  9])
    """
    numbers = {name: number for number, name in enumerate(classes)}
    if not numbers.keys() >= set(names):
        return None
    return np.array([numbers[name] for name in names], np.int64)
