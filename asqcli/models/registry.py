"""Model names to networks."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from pathlib import Path

from torch import nn

from asqcli.errors import UnsupportedError, UsageError, did_you_mean, first_line
from asqcli.models.cifar_resnet import CifarResNet
from asqcli.models.names import CIFAR_DEPTHS, is_factory


def build_model(name: str, num_classes: int) -> nn.Module:
    """Return a float network with random weights in training mode.

    Args:
        name: a CIFAR ResNet, a torchvision classifier, or `package.module:factory`.
        num_classes: outputs.
    Raises:
        UsageError: unknown name, or a factory that cannot be found.
        UnsupportedError: the network cannot be built: the factory raises, or the constructor does.
    """
    if is_factory(name):
        return _call_factory(name, num_classes)
    if name in CIFAR_DEPTHS:
        return CifarResNet(CIFAR_DEPTHS[name], num_classes)
    known = torchvision_classifiers()
    if name not in known:
        raise UsageError(
            f"unknown model `{name}`",
            did_you_mean(name, [*CIFAR_DEPTHS, *known])
            or "a CIFAR ResNet (resnet20), a torchvision classifier (resnet18), or `package.module:factory`",
        )
    return _torchvision_model(name, num_classes)


def torchvision_classifiers() -> list[str]:
    """Return the names of torchvision's classifiers."""
    from torchvision import models  # two seconds to import: not for users of the CIFAR family

    return models.list_models(module=models)


def official_weights(name: str):
    """Return torchvision's ImageNet weights for `name`, or None where it has none.

    The first version that was published, which is what the paper starts from, not the best one.
    """
    if is_factory(name) or name in CIFAR_DEPTHS:
        return None
    from torchvision import models

    weights = list(models.get_model_weights(name))
    return next((w for w in weights if w.name == "IMAGENET1K_V1"), weights[0] if weights else None)


def _torchvision_model(name: str, num_classes: int) -> nn.Module:
    from torchvision import models

    # googlenet and inception_v3 have auxiliary heads that only training runs, and an initialisation that takes a
    # minute.
    extra = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, num_classes=num_classes, **extra)


def _call_factory(name: str, num_classes: int) -> nn.Module:
    factory = _find_factory(name)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            accepts = inspect.signature(factory).parameters
            model = factory(num_classes=num_classes) if "num_classes" in accepts else factory()
    except (Exception, SystemExit) as error:
        raise UnsupportedError(
            f"the factory `{name}` raised {type(error).__name__}: {first_line(error)}", _DEBUG
        ) from error
    if not isinstance(model, nn.Module):
        raise UnsupportedError(f"the factory `{name}` returned {type(model).__name__}, not a torch.nn.Module")
    return model


_DEBUG = "run again with --debug to see where"


def _find_factory(name: str):
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise UsageError(f"`{name}` is not of the form package.module:factory", "for example `my_models:small_net`")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not look in the current folder by itself
        sys.path.insert(0, here)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise UsageError(
                f"no module `{module_name}` for the model `{name}`",
                "it is looked for in the current folder and among the installed packages",
            ) from error
        raise UnsupportedError(f"importing `{module_name}` failed: {error}", _DEBUG) from error
    except (Exception, SystemExit) as error:
        raise UnsupportedError(
            f"importing `{module_name}` raised {type(error).__name__}: {first_line(error)}", _DEBUG
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UsageError(f"module `{module_name}` has no function `{attribute}`", did_you_mean(attribute, public))
    return factory
