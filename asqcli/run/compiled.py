"""What a run tells of compiled passes that are not there."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from asqcli.nn.products import bindings
from asqcli.quant.kernels import native


def missing_in_words(device: torch.device) -> Iterator[str]:
    """Yield what is worth telling before training on a CPU: nothing where all that was compiled can be used.

    An installation that follows its source, and was not made again after it changed, has passes of another source.
    """
    missing = [
        name
        for name, found in (("fake quantizers", native.loaded()), ("convolutions", bindings.compiled()))
        if found is None
    ]
    if device.type == "cpu" and missing:
        yield (
            f"warning: the compiled {' and '.join(missing)} of training are missing, or of another version: PyTorch's "
            "own operations take longer; install asq again, with a C compiler"
        )
