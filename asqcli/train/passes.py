"""The passes of a training step, forward, loss and backward; on a GPU they and what follows are recorded and replayed.

A step of a small network is a thousand kernels of a few microseconds each, and Python takes several times as long to
ask for them as the GPU to run them. A CUDA graph asks for all at once; what it computes, and in which order, is the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from asqcli.errors import UnsupportedError, ran_out_of_memory
from asqcli.nn.norm_kernels.batch_norm import ByKernels
from asqcli.nn.precision import FLOAT32, backward_in, forward_in
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
        own_kernels: are batch norms by them? Not where a float step stands for PyTorch's.
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
        own_kernels: bool = True,
    ) -> None:
        self.model, self.objective, self.classes = model, objective, classes
        self.precision, self.device, self.processes = precision, device, processes
        self.own_kernels = own_kernels

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Give the parameters the gradients of a batch, or of this process's part, in place of those that they have.

        Returns:
            (mean loss, images right), () each.
        """
        self.clear()
        loss, right = self.forward(images, labels)
        self.backward(loss, len(labels))
        return loss.detach(), right

    def clear(self) -> None:
        """Take the gradients from the parameters."""
        for parameter in self.model.parameters():
            parameter.grad = None

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mean loss, images right), () each."""
        with self._told_of_types(), self._batch_norms(), forward_in(self.precision, self.device):
            logits = logits_in_training(self.model, images, self.classes)
        loss = self.objective(logits, labels, images)  # outside: a teacher evaluates
        return loss, (logits.detach().argmax(dim=1) == labels).sum()

    def backward(self, loss: Tensor, images: int) -> None:
        """Add the gradients of a mean loss over so many images."""
        with self._told_of_types(), self._batch_norms(), backward_in(self.precision, self.device):
            backward_in_training(self.processes.weigh(loss, images))

    @contextmanager
    def _told_of_types(self) -> Generator[None]:
        """Say what to do about a network that takes the types of float32 training alone."""
        try:
            yield
        except UnsupportedError as error:
            if self.precision == FLOAT32 or not any(word in str(error) for word in ("BFloat16", "dtype")):
                raise
            hint = "an operation of the network takes no bfloat16 beside float32: `--precision float32` trains it"
            raise UnsupportedError(str(error), hint) from error.__cause__

    def _batch_norms(self) -> AbstractContextManager[object]:
        """Return the context of the networks' batch norms, in a backward, too: it may run parts of a forward again."""
        if self.processes.size > 1:
            return as_one_batch(self.processes)
        # Not on a CPU, where no kernels are: a mode sees all that a network calls, which takes as long as a small pass.
        return ByKernels() if self.own_kernels and self.device.type == "cuda" else nullcontext()


Result = TypeVar("Result")


@dataclass
class _Recorded:
    """Passes as a graph, the tensors that it reads and writes, and what follows them.

    Attributes:
        grads: of each parameter, or None.
        places: `places` of network and gradients, as they were recorded.
        follow_up: what makes use of the gradients, and that as a graph, once it is recorded.
    """

    graph: torch.cuda.CUDAGraph
    images: Tensor
    labels: Tensor
    results: tuple[Tensor, Tensor]
    grads: list[tuple[nn.Parameter, Tensor | None]]
    places: list[int]
    follow_up: tuple[Callable[[], None], torch.cuda.CUDAGraph] | None = None


class ReplayedPasses:
    """`Passes` on a GPU, as a graph for each shape of batch; kernel by kernel where they cannot be recorded.

    They cannot where what is done depends on anything but the tensors: on values that Python reads, on random numbers
    that the GPU does not draw, on what a module remembers. Results and gradients are those of the last call: the next
    one writes over them.
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
            work: the same each time, in the same tensors but for the gradients: it reads no number of Python's that
                changes, and no value.
        """
        recorded = self.replayed
        if recorded is None:
            work()
            return
        with self._on_own_stream():
            if recorded.follow_up is not None and recorded.follow_up[0] == work:
                recorded.follow_up[1].replay()
                return
            work()  # before it is recorded: what it makes once, such as momenta, would be made anew by each replay
            graph = self._as_graph(work)
            recorded.follow_up = None if graph is None else (work, graph[0])

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
        if recorded is None or recorded.places != places(self.modules, recorded.grads):
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
        made = self._as_graph(lambda: self.passes(*inputs))
        if made is None:
            return None
        graph, results = made
        grads = [(p, p.grad) for p in self.model.parameters()]
        self.modules = list(self.model.modules())
        self.recorded[images.shape] = _Recorded(graph, *inputs, results, grads, places(self.modules, grads))
        return self.recorded[images.shape]

    def _as_graph(self, work: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result] | None:
        """Return a graph of what `work` asks for, without doing it, and what it returned.

        None where that cannot be recorded: then nothing is from there on.
        """
        graph = torch.cuda.CUDAGraph()
        pool = next((r.graph.pool() for r in self.recorded.values()), None)
        try:
            # Other threads, such as those that load images, may go on meanwhile.
            with torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local"):
                return graph, work()
        except Exception as error:  # CUDA's own, or what a network raises at a value that is not there yet
            if ran_out_of_memory(error):
                raise
            self.can_record = False
            self.recorded.clear()
            _end_recording_of_random_numbers(self.passes.device)
            return None


def places(modules: list[nn.Module], grads: list[tuple[nn.Parameter, Tensor | None]]) -> list[int]:
    """Return what differs once a recording is of other memory than that of the network, which has these modules.

    Addresses of all parameters, buffers and gradients, and which submodules there are. Who moves a network to another
    device and back may give its tensors the addresses that they had, but not the gradients, which were in the graph's
    own memory. Asking a small network for its parameters would take as long as its passes.
    """
    tensors = [grad for _, grad in grads]
    for module in modules:
        tensors += chain(module._parameters.values(), module._buffers.values())
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    return addresses + [id(child) for module in modules for child in module._modules.values()]


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
