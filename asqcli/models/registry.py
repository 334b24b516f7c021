"""Model names to networks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from asqcli.errors import UnsupportedError, UsageError, did_you_mean, first_line
from asqcli.models.cifar_resnet import CifarResNet
from asqcli.models.factories import call_factory
from asqcli.models.names import CIFAR_DEPTHS, IMAGENET_CLASSES, is_factory, is_timm
from asqcli.models.timm_networks import build_timm_network, classes_of, require_timm_network
from asqcli.models.wrappers import unwrap
from asqcli.seeds import held_generators, seed_everything

CIFAR_CLASSES = 10
LOUD = 2.0  # standard deviation of a head's outputs by that of its inputs; PyTorch's own start has 0.58


def build_model(
    name: str,
    num_classes: int | None,
    *,
    image_size: int | None = None,
    seed: tuple[int, ...] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> nn.Module:
    """Return a float network with random weights in training mode.

    Args:
        name: a CIFAR ResNet, a torchvision classifier, `timm:NAME`, or `package.module:factory`.
        num_classes: outputs; None for the network's own number (10 for the CIFAR family, that of its pretrained weights
            for timm's, 1000 for torchvision's and for a factory that names none).
        image_size: pixels; matters only to networks that are built for one size. None for their usual one.
        seed: whole numbers that name what constructors draw from torch's, NumPy's and Python's generators, which go on
            afterwards from where they stand. None to draw from them as they stand.
        tell: hears of what was taken off the network.
    Raises:
        UsageError: unknown name, or a factory that cannot be found.
        MachineError: it is timm's, which is not installed.
        UnsupportedError: the network cannot be built: the factory raises, or the constructor does.
    """
    with held_generators() if seed is not None else contextlib.nullcontext():
        model, wrappers = unwrap(_build(name, num_classes, image_size, seed))
    if wrappers:
        tell(f"the network is taken out of {' and '.join(wrappers)}: layers inside could not be replaced")
    return model


def _build(name: str, num_classes: int | None, image_size: int | None, seed: tuple[int, ...] | None) -> nn.Module:
    if seed is not None:
        seed_everything(*seed)
    if is_factory(name):
        return call_factory(name, num_classes, seed)
    require_known(name)
    if name in CIFAR_DEPTHS:
        return CifarResNet(CIFAR_DEPTHS[name], CIFAR_CLASSES if num_classes is None else num_classes)
    build = build_timm_network if is_timm(name) else _torchvision_network
    if num_classes is None:
        num_classes = classes_of(name) if is_timm(name) else IMAGENET_CLASSES
    try:
        model = build(name, num_classes, image_size)
    except (Exception, SystemExit) as error:
        size, hint = "", "run again with --debug to see where"
        if image_size is not None:
            size, hint = f" for images of {image_size}x{image_size} pixels", "try another size"
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UnsupportedError(f"`{name}` cannot be built{size}: {reason}", hint) from error
    _redraw_loud_head(model, num_classes)
    return model


def require_known(name: str) -> None:
    """Look at a model's name; a factory is not looked for.

    Raises:
        UsageError: it is none.
        MachineError: it is that of one of timm's networks, and timm is not installed.
    """
    if is_factory(name) or name in CIFAR_DEPTHS:
        return
    if is_timm(name):
        require_timm_network(name)
        return
    known = torchvision_classifiers()
    if name not in known:
        raise UsageError(
            f"unknown model `{name}`",
            did_you_mean(name, [*CIFAR_DEPTHS, *known])
            or "a CIFAR ResNet (resnet20), a torchvision classifier (resnet18), one of timm's (timm:resnet18d), or "
            "`package.module:factory`",
        )


def torchvision_classifiers() -> list[str]:
    """Return the names of torchvision's classifiers."""
    from torchvision import models  # two seconds to import: not for users of the CIFAR family

    return models.list_models(module=models)


def _torchvision_network(name: str, num_classes: int, image_size: int | None) -> nn.Module:
    from torchvision import models

    from asqcli.models.input_transform import NETWORKS

    build: Callable[..., nn.Module] = partial(models.get_model, name, weights=None)
    extra: dict[str, Any] = {}
    if name in NETWORKS:  # without the auxiliary heads, which only training runs; torchvision wants the other one said
        build, extra = NETWORKS[name], {"aux_logits": False, "init_weights": True}
    # These have parameters for each position in an image of one size.
    if image_size is not None and name.startswith("vit_"):
        extra["image_size"] = image_size
    if image_size is not None and name.startswith("maxvit_"):
        extra["input_size"] = (image_size, image_size)
    return build(num_classes=num_classes, **extra)


@torch.no_grad()
def _redraw_loud_head(model: nn.Module, num_classes: int) -> None:
    """Draw the last layer as PyTorch does where its own way makes logits far larger than its inputs.

    EfficientNet and MNASNet draw it by the number of classes, for a thousand of them: with ten, the loss starts at 11
    instead of 2.3, and its gradients tear the rest of the network apart.
    """
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == num_classes]
    if heads and not (weight := heads[-1].weight).is_meta and weight.std() * weight.shape[1] ** 0.5 > LOUD:
        heads[-1].reset_parameters()
