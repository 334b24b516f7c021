"""Several processes, joined by torch.distributed: gloo for tensors on the CPU, NCCL on CUDA."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from asqcli.errors import LostProcessError, MachineError, first_line
from asqcli.processes.alone import Processes
from asqcli.processes.failures import LAUNCHER, rank, restarts, tell_through
from asqcli.processes.part import Part

# How long a process waits for the others. One that ends is noticed at once, by its closed connections; this is for
# machines that vanish, and longer than one process may read images or write a checkpoint while the others wait.
PATIENCE_MINUTES = 15
PATIENCE = timedelta(minutes=PATIENCE_MINUTES)

PR_SET_PDEATHSIG = 1  # of Linux's prctl


class Group(Processes):
    """Several processes, joined by torch.distributed's default group.

    Every method but `weigh` is called by all of them, in the same order.

    Raises:
        LostProcessError: by each, when another process ends or does not answer for PATIENCE_MINUTES.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    @property
    def part(self) -> Part:
        return Part(self.rank, self.size)

    def sum(self, *numbers: float) -> tuple[float, ...]:
        total = torch.tensor(numbers, dtype=torch.float64)
        self.add_up(total)
        return tuple(total.tolist())

    def largest(self, numbers: Sequence[float]) -> list[float]:
        found = torch.tensor(numbers, dtype=torch.float64)
        with _or_lost():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return found.tolist()

    def add_up(self, tensor: Tensor) -> None:
        with _or_lost():
            dist.all_reduce(tensor)

    def weigh(self, loss: Tensor, images: int) -> Tensor:
        return loss * images

    @torch.no_grad()
    def add_gradients(self, model: nn.Module, images: int) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
        # A parameter may have a gradient in some processes only, and none at all is not the same as zeros: momentum
        # and weight decay move a parameter that has zeros. So each also tells whether it has one.
        present = parameters[0].new_tensor([p.grad is not None for p in parameters])
        gradients = [p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in parameters]
        flat = torch.cat([*gradients, present])
        self.add_up(flat)
        *gradients, present = flat.split([*(p.numel() for p in parameters), len(parameters)])
        for parameter, gradient, anywhere in zip(parameters, gradients, present.tolist(), strict=True):
            if anywhere:
                mean = gradient.div_(images).view_as(parameter)
                parameter.grad = mean.clone() if parameter.grad is None else parameter.grad.copy_(mean)

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        tensors = list(tensors)
        if not tensors:
            return
        # As bytes, so that types do not matter.
        flat = torch.cat([t.detach().contiguous().reshape(-1).view(torch.uint8) for t in tensors])
        with _or_lost():
            dist.broadcast(flat, 0)
        for tensor, part in zip(tensors, flat.split([t.numel() * t.element_size() for t in tensors]), strict=True):
            tensor.copy_(part.clone().view(tensor.dtype).reshape(tensor.shape))

    def texts(self, text: str) -> list[str]:
        own = torch.frombuffer(bytearray(os.fsencode(text) + b"\0"), dtype=torch.uint8)
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(own)
        self.add_up(lengths)
        table = torch.zeros(self.size, int(lengths.max()), dtype=torch.uint8)
        table[self.rank, : len(own)] = own
        self.add_up(table)
        return [os.fsdecode(bytes(row.tolist()).rstrip(b"\0")) for row in table]

    def agree_to_stop(self, number: int | None) -> int | None:
        return int(self.largest([number or 0])[0]) or None

    def wait(self) -> None:
        self.sum(0.0)


@contextmanager
def _or_lost() -> Generator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            f"another process of this training ended, or did not answer for {PATIENCE_MINUTES} minutes"
        ) from error


@contextmanager
def joined(*, on_cuda: bool) -> Generator[Group]:
    """Give the processes that this one was started with, once all of them are there.

    Args:
        on_cuda: may tensors be on a GPU?
    Raises:
        LostProcessError: they do not come.
    """
    _end_with_launcher()
    address, port, size = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), int(os.environ["WORLD_SIZE"])
    # A launcher keeps the store that they meet in, or else the first process.
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    has_nccl = on_cuda and torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"
    try:
        store = prefixed(_tcp_store(address, port, size, not kept and rank() == 0, PATIENCE), restarts())
        tell_through(store)
        dist.init_process_group(backend, store=_prefix("group", store), rank=rank(), world_size=size, timeout=PATIENCE)
    except RuntimeError as error:
        raise LostProcessError(
            f"the {size} processes of this training cannot meet at {address}:{port}: {first_line(error)}"
        ) from error
    # Its own forward would refuse the CPU. Statistics are those of the whole batch by `asqcli.train.one_batch`.
    nn.SyncBatchNorm.forward = nn.BatchNorm2d.forward  # pyright: ignore[reportAttributeAccessIssue]  # the same one's
    group = Group()
    if not group.first:
        warnings.simplefilter("ignore")  # which the first process shows
    # After a failure connections stay open to the end of the process: the others are to find out when it is told.
    yield group
    group.wait()
    dist.destroy_process_group()


def serve(address: str, port: int, descriptor: int) -> Any:
    """Return the store of processes that this one starts and is none of, at a socket that listens already."""
    store = _tcp_store(address, port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor)
    return prefixed(store, restart=0)


def prefixed(store: Any, restart: int) -> Any:
    """Return the part of a store that belongs to one start of the processes."""
    return _prefix(f"asq/{restart}", store)


def _tcp_store(*args: Any, **kwargs: Any) -> Any:
    if not dist.is_available():
        raise MachineError("this PyTorch was built without `torch.distributed`", "train in one process")
    return dist.TCPStore(*args, **kwargs)  # pyright: ignore[reportPrivateImportUsage]  # documented all the same


def _prefix(name: str, store: Any) -> Any:
    return dist.PrefixStore(name, store)  # pyright: ignore[reportPrivateImportUsage]  # documented all the same


def _end_with_launcher() -> None:
    """Have the system terminate this process when the one that started it by `--nproc` is killed."""
    if LAUNCHER not in os.environ:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(os.environ[LAUNCHER]):
        raise LostProcessError("the process that started this one ended")
