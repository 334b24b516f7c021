"""`asq` as a process, for the tests of its commands."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

QUICK = ("--max-steps", "2", "--set", "data.image_size=16", "--threads", "1")
TIMEOUT_S = 300


class _Server:
    """`asq_server.py`, of which each command is a fork."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("asq_server.py")
        self.process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=script.parents[1]
        )
        atexit.register(self.process.communicate)  # closes its standard input, which ends it

    def run(self, arguments: list[str | bytes], cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
        """Run a command to its end, as `subprocess.run` would.

        Raises:
            TimeoutExpired: it was killed.
        """
        with tempfile.NamedTemporaryFile() as stdout, tempfile.NamedTemporaryFile() as stderr:
            request = {
                "arguments": [os.fsdecode(argument) for argument in arguments],
                "cwd": os.fsdecode(cwd),
                "environment": environment,
                "stdout": stdout.name,
                "stderr": stderr.name,
            }
            assert self.process.stdin and self.process.stdout
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            pid = int(self.process.stdout.readline())
            if not select.select([self.process.stdout], [], [], TIMEOUT_S)[0]:
                os.killpg(pid, signal.SIGKILL)
                self.process.stdout.readline()
                raise subprocess.TimeoutExpired(["asq", *arguments], TIMEOUT_S)
            code = os.waitstatus_to_exitcode(int(self.process.stdout.readline()))
            texts = (file.read().decode().replace("\r\n", "\n") for file in (stdout, stderr))
            return subprocess.CompletedProcess(["asq", *arguments], code, *texts)


@functools.cache
def _server() -> _Server:
    return _Server()


def asq(*args, cwd, env=None, before=()) -> subprocess.CompletedProcess:
    """Run `asq` and check what holds for every command: no traceback, one error line first where it fails.

    Args:
        env: variables of its own; Python and what it imports see them from the start.
        before: a program that runs it, with its arguments.
    """
    arguments = [arg if isinstance(arg, bytes) else str(arg) for arg in args]
    environment = {**os.environ, "ASQ_OFFLINE": "1", "TORCH_HOME": str(cwd), **(env or {})}
    if env or before:
        done = subprocess.run(
            [*before, sys.executable, "-m", "asqcli", *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    else:
        done = _server().run(arguments, cwd, environment)
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
