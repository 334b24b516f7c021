"""The passes of a training step: forward, loss and backward. On a GPU they are recorded once and replayed.

A step of a small network is a thousand kernels of a few microseconds each, and Python takes several times as long to
ask for them as the GPU to run them. A CUDA graph asks for all at once; what it computes, and in which order, is the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from asqcli.errors import ran_out_of_memory
from asqcli.nn.precision import multiplying_in
from asqcli.processes.alone import ALONE, Processes
from asqcli.seeds import generator_states
from asqcli.train.forward import backward_in_training, logits_in_training
from asqcli.train.objective import Objective
from asqcli.train.one_batch import as_one_batch

WARM = 3  # passes that ask for each kernel before any is recorded: libraries choose, allocate and compile in them


class Passes:
    """Forward, loss and backward of a batch, kernel by kernel.

    Args:
        model: in training mode.
        classes: that it tells apart.
        precision: that forward and backward multiply in.
        device: of model and batches.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        *,
        classes: int,
        precision: str,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.model, self.objective, self.classes = model, objective, classes
        self.precision, self.device, self.processes = precision, device, processes

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Give the parameters the gradients of a batch, or of this process's part, in place of those that they have.

        Returns:
            (mean loss, images right), () each.
        """
        for parameter in self.model.parameters():
            parameter.grad = None
        loss, right = self.forward(images, labels)
        self.backward(loss, len(labels))
        return loss.detach(), right

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mean loss, images right), () each."""
        with self._as_it_trains():
            logits = logits_in_training(self.model, images, self.classes)
        loss = self.objective(logits, labels, images)  # outside: a teacher evaluates
        return loss, (logits.detach().argmax(dim=1) == labels).sum()

    def backward(self, loss: Tensor, images: int) -> None:
        """Add the gradients of a mean loss over so many images."""
        with self._as_it_trains():  # a network may run parts of its forward again
            backward_in_training(self.processes.weigh(loss, images))

    @contextmanager
    def _as_it_trains(self) -> Generator[None]:
        """Hold what a forward in training and its backward run in."""
        with as_one_batch(self.processes), multiplying_in(self.precision, self.device):
            yield


Result = TypeVar("Result")


@dataclass
class _Recorded:
    """Passes as a graph, the tensors that it reads and writes, and what follows it, once that is recorded.

    Attributes:
        grads: of each parameter, or None.
        places: of all tensors of the network, and of the gradients, in memory.
    """

    graph: torch.cuda.CUDAGraph
    images: Tensor
    labels: Tensor
    results: tuple[Tensor, Tensor]
    grads: list[tuple[nn.Parameter, Tensor | None]]
    places: list[int]
    follow_up: torch.cuda.CUDAGraph | None = None


class ReplayedPasses:
    """`Passes` on a GPU, as a graph for each shape of batch; kernel by kernel where they cannot be recorded.

    They cannot where what is done depends on anything but the tensors: on values that Python reads, on random numbers
    that the GPU does not draw, on what a module remembers.
    """

    def __init__(self, passes: Passes) -> None:
        self.passes, self.model = passes, passes.model
        self.stream = torch.cuda.Stream(passes.device)  # the usual one cannot be recorded
        self.recorded: dict[torch.Size, _Recorded] = {}
        self.replayed: _Recorded | None = None  # what the last passes were replayed from
        self.modules: list[nn.Module] = []
        self.taken, self.can_record = 0, True

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `Passes`."""
        with self._on_own_stream():
            return self._run(images, labels)

    def follow_up(self, work: Callable[[], None]) -> None:
        """Do what makes use of the last passes' gradients: replayed, too, where those were.

        Args:
            work: the same each time, in the same tensors but for the gradients; none of it can depend on their values.
        """
        if self.replayed is None:
            work()
            return
        with self._on_own_stream():
            if self.replayed.follow_up is None:
                [self.replayed.follow_up, _] = self._as_graph(work)
            self.replayed.follow_up.replay()

    @contextmanager
    def _on_own_stream(self) -> Generator[None]:
        usual = torch.cuda.current_stream(self.passes.device)
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            yield
        usual.wait_stream(self.stream)

    def _run(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.replayed = None
        if self.taken < WARM or not self.can_record:
            return self._run_and_watch(images, labels)
        recorded = self.recorded.get(images.shape)
        if recorded is None or recorded.places != self._places(recorded.grads):  # a tensor was replaced by another
            recorded = self._record(images, labels)
        if recorded is None:
            return self._run_and_watch(images, labels)
        recorded.images.copy_(images)
        recorded.labels.copy_(labels)
        recorded.graph.replay()
        for parameter, grad in recorded.grads:
            if parameter.grad is not grad:
                parameter.grad = grad
        self.replayed = recorded
        return recorded.results

    def _run_and_watch(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Run the passes kernel by kernel, and look what they change besides tensors."""
        self.taken += 1
        if not self.can_record:
            return self.passes(images, labels)
        models = self.model, self.passes.objective.teacher
        before = generator_states(), remembered(*models)
        results = self.passes(images, labels)
        self.can_record = before == (generator_states(), remembered(*models))
        return results

    def _record(self, images: Tensor, labels: Tensor) -> _Recorded | None:
        """Return the passes of such a batch as a graph; None where they cannot be recorded."""
        inputs = images.clone(), labels.clone()
        try:
            graph, results = self._as_graph(lambda: self.passes(*inputs))
        except Exception as error:  # CUDA's own, or what a network raises at a value that is not there yet
            if ran_out_of_memory(error):
                raise
            self.can_record = False
            self.recorded.clear()
            _end_recording_of_random_numbers(self.passes.device)
            return None
        grads = [(p, p.grad) for p in self.model.parameters()]
        self.modules = list(self.model.modules())
        self.recorded[images.shape] = recorded = _Recorded(graph, *inputs, results, grads, self._places(grads))
        return recorded

    def _as_graph(self, work: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
        """Record what is asked for in `work`, without doing it; return also what that returns."""
        graph = torch.cuda.CUDAGraph()
        pool = next((r.graph.pool() for r in self.recorded.values()), None)
        # Other threads, such as those that load images, may go on meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local"):
            return graph, work()

    def _places(self, grads: list[tuple[nn.Parameter, Tensor | None]]) -> list[int]:
        """Return what differs once a recording is of other memory than the network's.

        Whoever moves the network to another device and back gives its tensors other memory, or only their gradients.
        Asking the network for its parameters would take as long as the GPU for the passes of a small one.
        """
        tensors = [grad for _, grad in grads]
        for module in self.modules:
            tensors += chain(module._parameters.values(), module._buffers.values())
        places = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        return places + [id(child) for module in self.modules for child in module._modules.values()]


def _end_recording_of_random_numbers(device: torch.device) -> None:
    """Let the device draw random numbers again after a recording that failed.

    Up to PyTorch 2.13 the generator goes on believing that it is recorded, and refuses; a copy of its state does not.
    """
    with torch.cuda.device(device):
        drawn = torch.cuda.default_generators[torch.cuda.current_device()]
    drawn.graphsafe_set_state(drawn.clone_state())


class _Itself:
    """A tensor that is equal to itself alone, whatever its values."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.tensor is self.tensor

    def __hash__(self) -> int:
        return id(self.tensor)


def remembered(*models: nn.Module | None) -> list[object]:
    """Return what modules hold as attributes beside parameters and buffers, to be compared after a forward.

    Numbers and texts, which tensors they are, how much is in lists and dicts.
    """
    modules = chain.from_iterable(model.modules() for model in models if model is not None)
    return [(name, _as_compared(value)) for module in modules for name, value in vars(module).items()]


def _as_compared(value: object) -> object:
    match value:
        case bool() | int() | float() | str():
            return value
        case Tensor():
            return _Itself(value)
        case list() | dict() | set():
            return len(value)
        case _:
            return None


def fastest(passes: Passes) -> Passes | ReplayedPasses:
    """Return passes, replayed on a GPU where no other process has a part in them."""
    return ReplayedPasses(passes) if passes.device.type == "cuda" and passes.processes.size == 1 else passes
