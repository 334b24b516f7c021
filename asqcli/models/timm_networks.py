"""Networks of the package timm, `timm:NAME`, and their pretrained weights; nothing else imports that package.

NAME may end in the tag of pretrained weights, as timm's own names do: `timm:resnet18.a1_in1k`. Without one, timm's
first choice is meant.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from asqcli.errors import MachineError, UsageError, did_you_mean
from asqcli.models.names import IMAGENET_CLASSES, TIMM
from asqcli.seeds import held_generators

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

PROBE_TIMEOUT_S = 5
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # weights that have no name of their own


def require_timm_network(name: str) -> None:
    """Look at a model's name, `timm:NAME`.

    Raises:
        MachineError: timm is not installed.
        UsageError: it has no such network, or no such weights of it.
    """
    _require_installed()
    import timm

    own = name.removeprefix(TIMM)
    network, _, tag = own.partition(".")
    if not timm.is_model(network):
        near = did_you_mean(network, timm.list_models(), prefix=TIMM)
        raise UsageError(f"timm {timm.__version__} has no model `{own}`", near or "for example `timm:resnet18d`")
    tagged = timm.list_pretrained(f"{network}.*")
    if tag and own not in tagged:
        known = ", ".join(f"`{TIMM}{other}`" for other in (network, *tagged))
        raise UsageError(f"timm {timm.__version__} has no weights `{tag}` of `{network}`", f"choose {known}")


def _require_installed() -> None:
    if find_spec("timm") is None:
        raise MachineError("a model `timm:NAME` needs the package timm", "pip install 'asqcli[timm]'")


def is_timm_network(name: str) -> bool:
    """Is it the name of a network of timm, as far as can be seen here?"""
    try:
        require_timm_network(name)
    except (MachineError, UsageError):
        return False
    return True


def build_timm_network(name: str, num_classes: int, image_size: int | None) -> nn.Module:
    """Return a known network with random weights.

    Args:
        image_size: pixels; matters only to networks that are built for one size. None for their usual one.
    Raises:
        Exception: whatever its constructor raises.
    """
    import timm

    sized = image_size is not None and pretrained_settings(name).fixed_input_size
    extra: dict[str, Any] = {"img_size": image_size} if sized else {}
    return timm.create_model(name.removeprefix(TIMM), num_classes=num_classes, **extra)


def pretrained_settings(name: str) -> PretrainedCfg:
    """Return what timm has written down of a known network's pretrained weights, be there any or not."""
    import timm
    from timm.models import PretrainedCfg

    return timm.get_pretrained_cfg(name.removeprefix(TIMM)) or PretrainedCfg()


def classes_of(name: str) -> int:
    """Return the classes of a known network's pretrained weights; 1000 where they have no head."""
    return pretrained_settings(name).num_classes or IMAGENET_CLASSES


def class_names(name: str) -> tuple[str, ...] | None:
    """Return the names of the classes of a known network's weights by timm's own list, None where it has none.

    They are words, and what comes a second time has its WordNet number behind it.
    """
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    if (subset := infer_imagenet_subset({"num_classes": pretrained_settings(name).num_classes})) is None:
        return None
    names: dict[str, None] = {}
    info = ImageNetInfo(subset)
    for label in info.label_names():
        words = info.label_name_to_description(label)
        names[f"{words} ({label})" if words in names else words] = None
    return tuple(names)


def has_weights(name: str) -> bool:
    """Are there pretrained weights of a known network, with a head?"""
    settings = pretrained_settings(name)
    return bool(settings.has_weights and settings.num_classes)


def is_cached(name: str) -> bool:
    """Are the pretrained weights of a known network on this machine?"""
    from huggingface_hub import try_to_load_from_cache

    settings = pretrained_settings(name)
    if settings.hf_hub_id:
        files = (settings.hf_hub_filename,) if settings.hf_hub_filename else HUB_FILES
        return any(isinstance(try_to_load_from_cache(settings.hf_hub_id, file), str) for file in files)
    if settings.url:
        file = settings.url.rpartition("/")[2] if isinstance(settings.url, str) else settings.url[1]
        return (Path(torch.hub.get_dir()) / "checkpoints" / file).is_file()
    return True


def fetch(name: str) -> tuple[Mapping[str, Tensor], str]:
    """Return (state dict, its name) of the pretrained weights of a known network, from timm's caches or the net.

    Raises:
        Exception: there is no common type for what timm and the hub raise.
    """
    import timm

    settings = pretrained_settings(name)
    own = name.removeprefix(TIMM)
    with _quick_to_give_up(settings.hf_hub_id), held_generators():
        state: Mapping[str, Tensor] = timm.create_model(own, pretrained=True).state_dict()
    network, _, tag = own.partition(".")
    tag = tag or settings.tag
    return state, f"timm {network}.{tag}" if tag else f"timm {network}"


@contextmanager
def _quick_to_give_up(hub_id: str | None) -> Generator[None]:
    """Keep the hub's library to its cache where the hub does not answer: it would try for most of a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if hub_id and (os.environ.get("ASQ_OFFLINE") == "1" or not _answers(hub_id)):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(hub_id: str) -> bool:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(hub_id, HUB_FILES[0]), timeout=PROBE_TIMEOUT_S)
    except HfHubHTTPError:  # an answer as well: timm looks for other files then
        return True
    except Exception:  # by whatever library it reads web pages
        return False
    return True
