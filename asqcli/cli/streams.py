"""Where text goes: results to stdout, and whatever anybody else prints to stderr.

A network, its module and its libraries print what they like, at any time. So while a command runs, `sys.stdout` is
stderr, and in a process of our own (`take_over`) so is file descriptor 1, which C code writes to; `results` is the only
way to stdout. No text fails for its characters: those that an encoding lacks are written as escapes.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator
from typing import TextIO

_results: TextIO | None = None  # while a command runs


class Stream:
    """stdout or stderr, which fall silent on the errors in `ignored`, so that the command goes on to its exit code."""

    def __init__(self, stream: TextIO, ignored: type[OSError]) -> None:
        self._stream = stream
        self._ignored = ignored

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except self._ignored:
            silence(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except self._ignored:
            silence(self._stream)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def take_over() -> None:
    """Take the streams of this process: our own text goes out safely, the text of others goes to stderr."""
    _open_closed_descriptors()
    encodings = [getattr(stream, "encoding", None) or "utf-8" for stream in (sys.stdout, sys.stderr)]
    results = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = Stream(_text_stream(results, encodings[0]), BrokenPipeError)  # its reader has read enough
    sys.stderr = Stream(_text_stream(2, encodings[1]), OSError)  # nobody can be told


def _open_closed_descriptors() -> None:
    """Open those of 0, 1 and 2 that the shell closed; the next file to be opened would get the number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free


def _text_stream(descriptor: int, encoding: str) -> TextIO:
    by_line = 1 if descriptor == 2 else -1
    return open(descriptor, "w", by_line, encoding=encoding, errors="backslashreplace", closefd=False)


@contextlib.contextmanager
def prints_to_stderr() -> Generator[None]:
    """Send to stderr what Python code prints inside; `results` still leads to stdout."""
    global _results
    before, _results = _results, results()
    kept, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, _results = kept, before


def results() -> TextIO:
    """Return the stream for the command's result."""
    return _results or sys.stdout


def showable(text: str) -> str:
    """Return `text` with what stdout cannot show as escapes, so that a table's columns know their widths."""
    encoding = getattr(results(), "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def silence(stream: TextIO) -> None:
    """Let what is still to be written vanish; the interpreter would try once more at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
