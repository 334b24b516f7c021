"""Stand-ins for torchvision's official files, in its cache: their names and what they hold, with random values."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torchvision import models

from asqcli.models.official import official_weights
from asqcli.models.state import versions_in, with_versions

# Names in official files, by those that torchvision's networks have now.
OLD_NAMES = (
    (r"(denselayer\d+\.(?:norm|relu|conv))([12]\.)", r"\1.\2"),
    (r"(encoder_layer_\d+\.mlp\.)0\.", r"\1linear_1."),
    (r"(encoder_layer_\d+\.mlp\.)3\.", r"\1linear_2."),
)
WITH_HEADS = {"aux_logits": True, "init_weights": False}


def as_published(state):
    """Return a state as its file holds it: by old names and without counters where names are old."""
    old = {}
    for key, tensor in state.items():
        for now, before in OLD_NAMES:
            key = re.sub(now, before, key)
        old[key] = tensor
    if old.keys() == state.keys():
        return with_versions(state, versions_in(state))
    return {key: tensor for key, tensor in old.items() if not key.endswith("num_batches_tracked")}


def put_into_cache(name: str, home: Path) -> Path:
    """Write the file of `name` where torch looks for it under TORCH_HOME; return its path."""
    model = models.get_model(name, weights=None, **(WITH_HEADS if name in ("googlenet", "inception_v3") else {}))
    file = home / "hub" / "checkpoints" / official_weights(name).url.rpartition("/")[2]
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(as_published(model.state_dict()), file)
    return file


def put_timm_into_cache(name: str, hub: Path) -> dict[str, torch.Tensor]:
    """Write the pretrained weights of timm's `name` where the hub's library looks for them; return their state.

    Args:
        hub: the folder that `HF_HUB_CACHE` names.
    """
    import timm

    model = timm.create_model(name)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.0)
    folder = hub / f"models--{model.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    revision = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    (folder / "snapshots" / revision).mkdir(parents=True)
    state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    save_file(state, folder / "snapshots" / revision / "model.safetensors")
    return state
