"""What a run tells of compiled passes that are not there."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from asqcli.engine.native import bindings as kernels
from asqcli.nn.precision import BFLOAT16
from asqcli.nn.products import bindings as products
from asqcli.quant.kernels import native as fake_quantizers
from asqcli.quant.spec import LayerSpec
from asqcli.recipe.schema import Recipe


def missing_in_words(recipe: Recipe, specs: list[LayerSpec], device: torch.device) -> Iterator[str]:
    """Yield what is worth telling before quantized training on a CPU: nothing where all that it would use is there.

    An installation that follows a checkout, and was not made again after its C changed, has passes that do not fit.
    """
    if device.type != "cpu" or not specs:
        return
    used = {"fake quantizers": fake_quantizers.loaded()}
    if recipe.train.precision != BFLOAT16:  # whose convolutions are PyTorch's
        used |= {"products of whole numbers": kernels.find_library(), "convolutions": products.loaded()}
    if missing := [name for name, found in used.items() if found is None]:
        yield (
            f"warning: compiled passes of training are missing, or of another version ({', '.join(missing)}): "
            "PyTorch's own operations take longer; install asq again, with gcc or clang"
        )
