"""Files that may not be read and folders that may not be written, also where the tests are run by root."""

import contextlib
import os
from pathlib import Path


@contextlib.contextmanager
def unreadable(path: Path, monkeypatch):
    """Take all permissions from a file in `tmp_path` and yield its name there; root becomes somebody else meanwhile."""
    with _without(path, 0, monkeypatch) as name:
        yield name


@contextlib.contextmanager
def unwritable(path: Path, monkeypatch):
    """The same, with a folder in which nothing can be made."""
    with _without(path, 0o555, monkeypatch) as name:
        yield name


@contextlib.contextmanager
def _without(path: Path, mode: int, monkeypatch):
    path.chmod(mode)
    path.parent.chmod(0o755)
    monkeypatch.chdir(path.parent)  # the folders above are closed to others
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield Path(path.name)
    finally:
        if root:
            os.seteuid(0)
