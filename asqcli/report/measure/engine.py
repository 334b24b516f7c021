"""Bytes and time of each layer as it is exported."""

from __future__ import annotations

from torch import nn

from asqcli.artifact import Artifact
from asqcli.artifact.file import part_bytes
from asqcli.artifact.nodes import Conv, Linear
from asqcli.bench import machine
from asqcli.bench.steps import layer_microseconds
from asqcli.engine import Session
from asqcli.engine.native.network import NativeNetwork
from asqcli.report.findings import Exported
from asqcli.run.artifact import to_artifact
from asqcli.run.checkpoint import Checkpoint


def export_and_time(checkpoint: Checkpoint, model: nn.Module) -> tuple[Exported, dict[str, int], dict[str, float]]:
    """Return (the export, bytes by layer, microseconds by layer); nothing is written.

    Without a native kernel there are no times: NumPy's say nothing of the network.

    Args:
        model: of the checkpoint, restored.
    Raises:
        UnsupportedError: it cannot be exported.
    """
    artifact = to_artifact(checkpoint, model)
    session = Session(artifact)
    times = layer_microseconds(session.network) if isinstance(session.network, NativeNetwork) else {}
    exported = Exported(sum(part_bytes(artifact).values()), session.kernel, machine.processor())
    return exported, _bytes(artifact), times


def _bytes(artifact: Artifact) -> dict[str, int]:
    """Return what the file stores for each layer alone: not the tables of levels, which layers share."""
    sizes: dict[str, int] = {}
    for node in artifact.document.nodes:
        if isinstance(node, Conv | Linear):
            own = {spec.name for spec in artifact.tensors_of(node) if not spec.shared}
            sizes[node.name] = sum(artifact.tensors[name].nbytes for name in own)
    return sizes
