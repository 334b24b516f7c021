"""A prepared network to an artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from asqcli.artifact import Artifact
from asqcli.artifact import document as doc
from asqcli.errors import InputError, UnsupportedError
from asqcli.export.integers import TensorStore
from asqcli.export.lower import Lowered, lower
from asqcli.nn.prepare import quant_layers
from asqcli.nn.record import Record, record_or_refuse

# The first shows which dimension of a tensor is the batch; the others must come out as the same nodes.
BATCHES = (2, 3, 1)


def export_network(
    model: nn.Module,
    *,
    classes: tuple[str, ...],
    preprocessing: doc.Input,
    provenance: doc.Provenance,
    tell: Callable[[str], None] | None = None,
) -> Artifact:
    """Return a prepared network as integers.

    Args:
        model: with quantized layers.
        classes: names, in label order.
        tell: hears what the file leaves out.
    Raises:
        UnsupportedError: an operation that the engine does not have; names it and its place in the source.
    """
    if not any(True for _ in quant_layers(model)):
        raise UnsupportedError("the network is float: it has no integers to export", "quantize it first")
    store = TensorStore()
    first, *others = (lower(_run(model, batch, preprocessing.image_size), store) for batch in BATCHES)
    for batch, other in zip(BATCHES[1:], others, strict=True):
        _require_equal(first, other, batch)
    if first.left_out is not None and tell is not None:
        tell(f"the file ends with the logits, before {first.left_out}: labels and scores are the same without it")
    nodes = first.nodes
    document = doc.Document(format=doc.FORMAT, input=preprocessing, classes=classes, nodes=nodes, provenance=provenance)
    used = {text for node in nodes for text in _strings(node.model_dump())}
    tensors = {name: tensor for name, tensor in store.tensors.items() if name in used}  # without those of pruned nodes
    try:
        return Artifact.checked(document, tensors)
    except InputError as error:
        raise UnsupportedError(f"the network cannot be exported: {error.message}", error.hint) from error


def _run(model: nn.Module, batch: int, size: int) -> Record:
    device = next((p.device for p in model.parameters()), None)
    return record_or_refuse(model, torch.zeros(batch, 3, size, size, device=device))


def _require_equal(first: Lowered, other: Lowered, batch: int) -> None:
    """Refuse a network that computes something else with another number of images."""
    if first.nodes == other.nodes:
        return
    pairs = zip(first.nodes, other.nodes, strict=False)
    name = next((node.name for node, same in pairs if node != same), first.nodes[-1].name)
    raise UnsupportedError(
        f"`{name}` cannot be exported: it mixes or counts the images of a batch, and is something else with {batch} of "
        f"them than with {BATCHES[0]}{first.places[name]}",
        "a forward must do the same to each image, however many there are",
    )


def float_bytes(model: nn.Module) -> int:
    """Return the bytes of the state dict of the float network that a prepared `model` was made from."""
    state = model.state_dict()
    own = (t for name, t in state.items() if "_quantizer." not in name and isinstance(t, Tensor))
    return sum(t.numel() * t.element_size() for t in own)


def _strings(content: object) -> Iterator[str]:
    """Yield every text in nested dicts and lists."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | tuple | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _strings(part)
