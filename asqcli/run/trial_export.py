"""A trial before training: what will stay in float, cannot be exported, or takes much of the exported file."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from asqcli.artifact import document as doc
from asqcli.artifact.file import part_bytes
from asqcli.errors import Interruption, UnsupportedError, first_line
from asqcli.export.network import export_network
from asqcli.nn.prepare import prepared
from asqcli.nn.proof import float_products
from asqcli.quant.spec import LayerSpec
from asqcli.run.trial_training import require_layers_in_training

LARGE_ADAPTER_SHARE = 0.1  # share of the exported file
SMALL_HIDDEN = 8  # the recipe of MobileNet-V2 has it


def findings(model: nn.Module, specs: list[LayerSpec], example: Tensor, classes: tuple[str, ...]) -> Iterator[str]:
    """Yield in words what should be known of a network before it is trained as its specs say.

    Args:
        model: float, and so again afterwards.
        example: one input, (1, 3, H, W), on the model's device.
    Raises:
        UnsupportedError: a layer cannot be replaced, or the network does not call what would replace it, in evaluation
            or in training.
    """
    with prepared(model, specs, example) as run:
        products = float_products(run)
        require_layers_in_training(run)
    if products:
        yield products
    try:
        size, adapters = _trial(model, specs, example, classes)
    except UnsupportedError as error:
        yield f"what is trained here cannot be exported: {error.message}"
        return
    except Interruption:  # a signal, which may come at any time
        raise
    except Exception as error:  # a trial may fail where a run will not
        yield f"whether this can be exported was not found out: {type(error).__name__}: {first_line(error)}"
        return
    if adapters > LARGE_ADAPTER_SHARE * size:
        text = f"the adapters will take {adapters / size:.0%} of the exported {size:,} bytes"
        yield text + _with_smaller(model, specs, example, classes, than=size)


def _with_smaller(
    model: nn.Module, specs: list[LayerSpec], example: Tensor, classes: tuple[str, ...], *, than: int
) -> str:
    """Return what adapters of few hidden units would take, or nothing where the file would not get smaller."""
    size, adapters = _trial(model, [_with_hidden(spec, SMALL_HIDDEN) for spec in specs], example, classes)
    if size >= than:
        return ""
    return f"; {adapters / size:.0%} of {size:,} with `--set activations.adapter.hidden={SMALL_HIDDEN}`"


def _trial(model: nn.Module, specs: list[LayerSpec], example: Tensor, classes: tuple[str, ...]) -> tuple[int, int]:
    """Return (bytes of the file, bytes of the adapters in it)."""
    size = example.shape[-1]
    with prepared(model, specs, example):
        artifact = export_network(
            model,
            classes=classes,
            preprocessing=doc.Input(image_size=size, resize=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
            provenance=doc.Provenance(asqcli="", model=""),
        )
    parts = part_bytes(artifact)
    return sum(parts.values()), parts["adapters"]


def _with_hidden(spec: LayerSpec, units: int) -> LayerSpec:
    return spec.with_adapter(spec.adapter.model_copy(update={"hidden": units})) if spec.adapter else spec
