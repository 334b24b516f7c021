"""Files that may not be read, also where the tests are run by root."""

import contextlib
import os
from pathlib import Path


@contextlib.contextmanager
def unreadable(path: Path, monkeypatch):
    """Take all permissions from a file in `tmp_path` and yield its name there; root becomes somebody else meanwhile."""
    path.chmod(0)
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
