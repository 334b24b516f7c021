"""What a run will come to, told before it is trained: can it be exported, and what will the adapters take?"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from asqcli.errors import UnsupportedError, first_line
from asqcli.nn.prepare import LayerPlan, prepared

LARGE_ADAPTER_SHARE = 0.1  # of the exported file
SMALL_HIDDEN = 8  # the recipe of MobileNet-V2 has it


def outlook(model: nn.Module, plans: list[LayerPlan], *, image_size: int, classes: tuple[str, ...]) -> str | None:
    """Return a warning in words, where there is one, from an export with steps of 1.

    Args:
        model: float, and so again afterwards.
    """
    try:
        size, adapters = _trial(model, plans, image_size, classes)
    except UnsupportedError as error:
        return f"warning: what is trained here cannot be exported: {error.message}"
    except Exception as error:  # what goes wrong in a trial may well go right in a run
        return f"note: whether this can be exported was not found out: {type(error).__name__}: {first_line(error)}"
    if adapters <= LARGE_ADAPTER_SHARE * size:
        return None
    text = f"warning: the adapters will take {adapters / size:.0%} of the exported {size:,} bytes"
    smaller = [_with_hidden(plan, SMALL_HIDDEN) for plan in plans]
    small_size, small_adapters = _trial(model, smaller, image_size, classes)
    if small_size < size:
        text += f"; {small_adapters / small_size:.0%} of {small_size:,} with "
        text += f"`--set activations.adapter.hidden={SMALL_HIDDEN}`"
    return text


def _trial(model: nn.Module, plans: list[LayerPlan], image_size: int, classes: tuple[str, ...]) -> tuple[int, int]:
    """Return (bytes of the file, bytes of the adapters in it)."""
    from asqcli.artifact import document as doc
    from asqcli.artifact.file import part_bytes
    from asqcli.export.network import export_network

    device = next((p.device for p in model.parameters()), None)
    example = torch.zeros(1, 3, image_size, image_size, device=device)
    # Signedness is not seen yet, and changes no byte.
    with prepared(model, [replace(plan, signed=True) for plan in plans], example):
        artifact = export_network(
            model,
            classes=classes,
            preprocessing=doc.Input(image_size=image_size, resize=image_size, mean=(0.0,) * 3, std=(1.0,) * 3),
            provenance=doc.Provenance(asqcli="", model=""),
        )
    parts = part_bytes(artifact)
    return sum(parts.values()), parts["adapters"]


def _with_hidden(plan: LayerPlan, hidden: int) -> LayerPlan:
    if plan.activations is None or "adapter" not in plan.activations:
        return plan
    adapter = {**plan.activations["adapter"], "hidden": hidden}
    return replace(plan, activations={**plan.activations, "adapter": adapter})
