"""Runs without labels: the float network's own classes, and its own answers as labels.

So everything that counts right answers counts how often the quantized network agrees with it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from asqcli.data.class_names import read_class_names
from asqcli.data.samples import DataSet, relabelled
from asqcli.data.splits import Split
from asqcli.errors import InputError, MachineError, quoted
from asqcli.models.names import IMAGENET_CLASSES
from asqcli.models.official import has_official
from asqcli.nn.survey import require_logits, survey
from asqcli.processes.alone import ALONE, Processes
from asqcli.recipe.schema import Recipe
from asqcli.run.build import build_with_head
from asqcli.run.start import Start, start_model
from asqcli.train.evaluate import top_answers


def start_unlabelled(recipe: Recipe, tell: Callable[[str], None]) -> tuple[Start, tuple[str, ...]]:
    """Return the float network with its weights, which has the classes that these are for, and their names.

    Args:
        tell: as for `start_model`; hears who names the classes, too.
    Raises:
        MachineError: its official weights cannot be had.
        InputError: it has no weights, or a head that starts at random, so that nothing could teach; or the names are
            not as many as its logits.
    """
    count, told = _logits(recipe), list[str]()
    start = start_model(recipe, count, told.append)
    if start.head_classes is not None:  # the weights are for others than the network has by itself
        count = start.head_classes
        told.clear()
        start = start_model(recipe, count, told.append)
    for text in told:
        tell(text)
    if not start.pretrained and recipe.pretrained == "auto" and has_official(recipe.model):
        raise MachineError(
            f"`{recipe.model}` starts without weights: {start.weights}; without labels only a trained float network "
            "can teach",
            "try again, or give a file with --weights",
        )
    if not start.pretrained:
        raise InputError(
            f"`{recipe.model}` starts without weights: {start.weights}; without labels only a trained float network "
            "can teach",
            "name its weights with --weights, or leave out --no-labels",
        )
    if start.new_head is not None:
        raise InputError(
            f"the layer `{start.new_head}` of `{recipe.model}` starts at random; without labels nothing can teach it",
            "name weights for all of the network",
        )
    names, source = _class_names(recipe, start, count)
    tell(f"classes: {len(names):,}, {source}")
    return start, names


def label_by(
    network: nn.Module,
    data: DataSet[Split],
    *,
    device: torch.device,
    poll: Callable[[], None] = lambda: None,
    processes: Processes = ALONE,
) -> DataSet[Split]:
    """Return the same images, labelled by the top answers of a float `network`. Args as of `evaluate`."""

    def label(split: Split) -> Split:
        return split.relabelled(top_answers(network, split, device=device, poll=poll, processes=processes))

    return relabelled(data, label, data.classes)


def _logits(recipe: Recipe) -> int:
    """Return how many classes the network has where it is told no number."""
    size = recipe.data.image_size
    output = survey(build_with_head(recipe, None).model, torch.zeros(1, 3, size, size)).output
    if not isinstance(output, Tensor) or output.dim() != 2:
        require_logits(output, IMAGENET_CLASSES, name=recipe.model)
        raise AssertionError
    return output.shape[1]


def _class_names(recipe: Recipe, start: Start, count: int) -> tuple[tuple[str, ...], str]:
    """Return the names of `count` classes, and in words who says them."""
    if recipe.data.classes is not None:
        names = read_class_names(recipe.data.classes)
        file = quoted(recipe.data.classes)
        if len(names) != count:
            raise InputError(
                f"{file} names {len(names):,} classes, and `{recipe.model}` answers with {count:,} logits",
                "one name a line, in the order of the logits",
            )
        return names, f"named by {file}"
    if start.classes is not None:
        return start.classes, f"named as by {start.weights}"
    return tuple(map(str, range(count))), "which are numbered: nothing names them, `--classes FILE` would"
