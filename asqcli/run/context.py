"""What a run needs besides its recipe: a device, somebody to tell, a way to be stopped."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from asqcli.errors import MachineError, UsageError
from asqcli.processes.alone import ALONE, Processes
from asqcli.train.reporter import Reporter


class StopRequested(Exception):
    """Raised by `poll` when a signal asks to stop; carries its number."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number


@dataclass(frozen=True)
class RunContext:
    """What a run needs besides its recipe.

    Attributes:
        device: to train on.
        reporter: hears what happens.
        poll: called often, equally often by all processes; raises StopRequested to stop, in all of them.
        command: the command line, for the record.
        processes: that train together.
    """

    device: torch.device
    reporter: Reporter
    poll: Callable[[], None] = lambda: None
    command: tuple[str, ...] = ()
    processes: Processes = ALONE


def select_device(name: str | None, processes: Processes = ALONE) -> torch.device:
    """Return the device of a name, or the best there is; of several processes on a machine each has a CUDA device.

    Raises:
        UsageError: no such kind of device.
        MachineError: it is not there.
    """
    device = _device(name)
    if device.type == "cuda":
        _make_repeatable()
        if str(device) != device.type:  # it has a number
            torch.cuda.set_device(device)  # Triton's kernels run on the current one
    if device.type == "cpu" or processes.size == 1:
        return device
    if name is not None and name != device.type:
        raise UsageError(f"`--device {name}`: several processes cannot share a CUDA device", "say `--device cuda`")
    if processes.local_size > torch.cuda.device_count():
        raise MachineError(
            f"{processes.local_size} processes on a machine with {torch.cuda.device_count()} CUDA devices",
            "start one for each, or say `--device cpu`",
        )
    device = torch.device("cuda", processes.local_rank)
    torch.cuda.set_device(device)
    return device


def _make_repeatable() -> None:
    """Let a GPU give the same bits each time, and multiply float32 in float32.

    By default PyTorch convolves in TF32, of 11 significant bits; training that wants speed asks for bfloat16, in which
    codes and levels are exact.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is taken
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)  # what has none is told of, and runs
    # Which would cost a pass for each tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device `{name}`, choose cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MachineError("`--device cuda`: PyTorch finds no CUDA device here", "leave --device out to use the CPU")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MachineError(f"`--device {name}`: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device `{name}` is not supported, choose cpu or cuda")
    return device


def environment(context: RunContext) -> dict[str, Any]:
    """Return what a run ran on, for the record."""
    packages = ["asqcli", "torch", "torchvision", "numpy", "pillow"]
    if "timm" in sys.modules:  # which few networks are made by
        packages.append("timm")
    return {
        "command": list(context.command),
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        **{name: version(name) for name in packages},
        "device": str(context.device),
        "processes": context.processes.size,
        "threads": torch.get_num_threads(),
        "offline": os.environ.get("ASQ_OFFLINE") == "1",
    }
