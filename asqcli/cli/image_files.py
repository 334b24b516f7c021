"""The image files that arguments name: files, folders, and a list on standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from asqcli.errors import InputError, quoted


def image_files(inputs: list[str]) -> Iterator[str]:
    """Yield the files that the arguments name.

    Raises:
        InputError: a folder or a list without images, a folder that may not be read.
    """
    for text in inputs:
        if text == "-":
            yield from _listed_files()
        elif os.path.isdir(text):
            yield from _files_in(text)
        else:
            yield str(Path(text))


def _listed_files() -> list[str]:
    """Return the paths on standard input, one a line, whatever bytes their names are made of."""
    try:
        content = sys.stdin.buffer.read() if sys.stdin is not None else b""  # None where the shell closed it
    except OSError as error:
        raise InputError(f"standard input cannot be read: {error.strerror}") from error
    listed = [str(Path(os.fsdecode(line.rstrip(b"\r")))) for line in content.split(b"\n") if line.strip()]
    if not listed:
        raise InputError("standard input names no images")
    return listed


def _files_in(folder: str) -> list[str]:
    """Return the images in a folder and below; links are followed, and what is passed over is told."""
    from asqcli.cli.console import tell_of_data
    from asqcli.data.folders import Folder, counted, passed_over, walk

    folder = str(Path(folder))
    found = walk(Folder.at(folder))
    notes = passed_over(found.visited, folder)
    if found.repeated:
        notes.append(f"passed over, links to folders that are read already: {counted(found.repeated, folder)}")
    tell_of_data(tuple(notes))
    broken = [inner / name for inner in found.visited for name in inner.contents.broken]
    if not found.paths and not broken:
        raise InputError(f"no images in the folder {quoted(folder)}")
    return [*found.paths, *broken]  # a broken link is answered as an image that cannot be read
