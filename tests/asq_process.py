"""`asq` as a process, for the tests of its commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

QUICK = ("--max-steps", "2", "--set", "data.image_size=16", "--threads", "1")


def asq(*args, cwd, env=None, before=()) -> subprocess.CompletedProcess:
    """Run `asq` and check what holds for every command: no traceback, one error line first where it fails.

    Args:
        before: a program that runs it, with its arguments.
    """
    done = subprocess.run(
        [*before, sys.executable, "-m", "asqcli", *(arg if isinstance(arg, bytes) else str(arg) for arg in args)],
        cwd=cwd,
        env={**os.environ, "ASQ_OFFLINE": "1", "TORCH_HOME": str(cwd), **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert (done.returncode == 0) == ("error: " not in done.stderr), done.stderr
    return done


def obeying_permissions() -> tuple[str, ...] | None:
    """Return what to run a command by so that it obeys the permissions of files: root does so only without privileges.

    None: root cannot give them up here.
    """
    if os.geteuid() != 0:
        return ()
    without = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--")
    if shutil.which("setpriv") is None or subprocess.run([*without, "true"], capture_output=True).returncode:
        return None
    return without


def fails(code, text, *args, cwd, hint=None, prints=False, **kwargs):
    """Check a failure: its exit code, text and hint, and that stdout stays empty unless the command `prints` first."""
    done = asq(*args, cwd=cwd, **kwargs)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert hint is None or f"hint: {hint}" in done.stderr, done.stderr
    assert bool(done.stdout) == prints
