"""The passes of a training step: forward, loss and backward. On a GPU they are recorded once and replayed.

A step of a small network is a thousand kernels of a few microseconds each, and Python takes several times as long to
ask for them as the GPU to run them. A CUDA graph asks for all at once; what it computes, and in which order, is the
same.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

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
        """Add the gradients of a batch, or of this process's part; return (mean loss, images right), () each."""
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


@dataclass(frozen=True)
class _Recorded:
    """Passes as a graph, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    labels: Tensor
    results: tuple[Tensor, Tensor]
    grads: list[Tensor | None]
    places: list[int]


class ReplayedPasses:
    """`Passes` on a GPU, as a graph for each shape of batch; kernel by kernel where they cannot be recorded.

    They cannot where what is done depends on anything but the tensors: on values that Python reads, on random numbers
    that the GPU does not draw, on what a module remembers.
    """

    def __init__(self, passes: Passes) -> None:
        self.passes, self.model = passes, passes.model
        self.stream = torch.cuda.Stream(passes.device)  # the usual one cannot be recorded
        self.recorded: dict[torch.Size, _Recorded] = {}
        self.taken, self.can_record = 0, True

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `Passes`, where no parameter has a gradient yet."""
        usual = torch.cuda.current_stream(self.passes.device)
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            results = self._run(images, labels)
        usual.wait_stream(self.stream)
        return results

    def _run(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.taken < WARM or not self.can_record:
            return self._run_and_watch(images, labels)
        recorded = self.recorded.get(images.shape)
        if recorded is None or recorded.places != self._places():  # a tensor was replaced by another
            recorded = self._record(images, labels)
        if recorded is None:
            return self._run_and_watch(images, labels)
        recorded.images.copy_(images)
        recorded.labels.copy_(labels)
        recorded.graph.replay()
        for parameter, grad in zip(self.model.parameters(), recorded.grads, strict=True):
            parameter.grad = None if grad is None else grad.detach()
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
        graph = torch.cuda.CUDAGraph()
        inputs = images.clone(), labels.clone()
        pool = next((r.graph.pool() for r in self.recorded.values()), None)
        try:
            # Other threads, such as those that load images, may go on meanwhile.
            with torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local"):
                results = self.passes(*inputs)
        except Exception as error:  # CUDA's own, or what a network raises at a value that is not there yet
            if ran_out_of_memory(error):
                raise
            self.can_record = False
            self.recorded.clear()
            _end_recording_of_random_numbers(self.passes.device)
            self.model.zero_grad(set_to_none=True)
            return None
        # Tensors of their own over the memory that the graph writes: who moves the network to another device and back
        # gives the parameters' gradients other memory.
        grads = [None if p.grad is None else p.grad.detach() for p in self.model.parameters()]
        self.recorded[images.shape] = recorded = _Recorded(graph, *inputs, results, grads, self._places())
        return recorded

    def _places(self) -> list[int]:
        return [tensor.data_ptr() for tensor in chain(self.model.parameters(), self.model.buffers())]


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
