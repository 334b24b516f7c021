"""A prepared network to an artifact."""

from __future__ import annotations

from torch import Tensor, nn

from asqcli.artifact import Artifact
from asqcli.artifact import document as doc
from asqcli.errors import InputError, UnsupportedError
from asqcli.export.lower import lower
from asqcli.export.trace import trace
from asqcli.nn.modes import evaluating
from asqcli.nn.prepare import quant_layers


def export_network(
    model: nn.Module, *, classes: tuple[str, ...], preprocessing: doc.Input, provenance: doc.Provenance
) -> Artifact:
    """Return a prepared network as integers.

    Args:
        model: with quantized layers.
        classes: names, in label order.
    Raises:
        UnsupportedError: an operation that the engine does not have; names it and its place in the source.
    """
    if not any(True for _ in quant_layers(model)):
        raise UnsupportedError("the network is float: it has no integers to export", "quantize it first")
    size = preprocessing.image_size
    with evaluating(model):
        nodes, store = lower(trace(model, (3, size, size)))
    document = doc.Document(format=doc.FORMAT, input=preprocessing, classes=classes, nodes=nodes, provenance=provenance)
    used = {text for node in nodes for text in _strings(node.model_dump())}
    tensors = {name: tensor for name, tensor in store.tensors.items() if name in used}  # without those of pruned nodes
    try:
        return Artifact.checked(document, tensors)
    except InputError as error:
        raise UnsupportedError(f"the network cannot be exported: {error.message}", error.hint) from error


def float_bytes(model: nn.Module) -> int:
    """Return the bytes of the state dict of the float network that a prepared `model` was made from."""
    state = model.state_dict()
    own = (t for name, t in state.items() if "_quantizer." not in name and isinstance(t, Tensor))
    return sum(t.numel() * t.element_size() for t in own)


def _strings(content: object):
    """Yield every text in nested dicts and lists."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | tuple | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _strings(part)
