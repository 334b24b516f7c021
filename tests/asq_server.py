"""A process that has imported what `asq` is slow to import, and forks itself for each command.

A command is a process of its own all the same, with its own folder, environment, streams and exit code; only the import
of PyTorch, seconds of processor time, is paid once and not hundreds of times. Runs as a script, a JSON line on
standard input for each command, its wait status on a line of standard output.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import sys

IMPORTED = (
    *("torchvision", "sklearn.datasets", "safetensors.torch", "rich.table"),
    *("asqcli.cli.app", "asqcli.run.entry", "asqcli.export.network", "asqcli.overhead.count", "asqcli.engine.session"),
)


def serve() -> dict | None:
    """Fork for each request; return it in the child, None in the server when no more come."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for line in requests:
        pid = os.fork()
        if pid == 0:
            requests.close()
            answers.close()
            return json.loads(line)
        answers.write(f"{pid}\n")
        answers.flush()
        _, status = os.waitpid(pid, 0)
        answers.write(f"{status}\n")
        answers.flush()
    return None


def become(request: dict) -> None:
    """Turn a forked server into the command that is asked for."""
    import numpy as np

    os.setsid()
    for number, name in enumerate(("/dev/null", request["stdout"], request["stderr"])):
        file = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(os.fsencode(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["environment"])
    np.random.seed(None)  # torch's generator starts alike in each process, Python's is seeded anew by the fork
    sys.path[0] = os.getcwd()  # as `python -m` has it
    sys.argv = ["asq", *request["arguments"]]


def end(code: object) -> None:
    """End the process as the interpreter would, but for taking apart all that was imported, which takes a second."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # else the children's collector copies every page
    if (request := serve()) is not None:
        become(request)
        try:
            runpy.run_module("asqcli", run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            end(stop.code)
