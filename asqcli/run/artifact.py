"""A run's network as an artifact, with its preprocessing, classes and provenance."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from asqcli import __version__
from asqcli.artifact import Artifact
from asqcli.artifact import document as doc
from asqcli.data.layout import NAMES
from asqcli.export.network import export_network
from asqcli.models.names import is_factory
from asqcli.recipe.schema import scheme_of
from asqcli.run.checkpoint import Checkpoint


def to_artifact(checkpoint: Checkpoint, network: nn.Module, *, tell: Callable[[str], None] | None = None) -> Artifact:
    """Return the network of a checkpoint, restored, as integers.

    Args:
        tell: hears what the file leaves out.
    Raises:
        UnsupportedError: an operation that the engine does not have, or a float network.
    """
    recipe = checkpoint.recipe
    data = recipe.data
    # No paths: exporting a run twice, on two machines, gives the same bytes.
    provenance = doc.Provenance(
        asqcli=__version__,
        model=recipe.model.rpartition(":")[2] if is_factory(recipe.model) else recipe.model,
        scheme=scheme_of(recipe.weights.quantizer, recipe.activations.quantizer),
        data=data.name if data.name in NAMES else None,
        seed=recipe.train.seed,
        epochs=recipe.train.epochs,
    )
    preprocessing = doc.Input(image_size=data.image_size, resize=data.resize, mean=data.mean, std=data.std)
    return export_network(
        network, classes=checkpoint.classes, preprocessing=preprocessing, provenance=provenance, tell=tell
    )
