"""Networks of the user's own: a `module:factory` found, and asked for a number of classes."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn

from asqcli.errors import UnsupportedError, UsageError, did_you_mean
from asqcli.models.names import IMAGENET_CLASSES
from asqcli.seeds import seed_everything
from asqcli.user_code import guest, held_settings, reason_of

Factory = Callable[..., object]

# How factories call the number of classes, the likeliest first.
CLASS_KEYWORDS = ("num_classes", "n_classes", "classes", "num_labels", "nb_classes", "nclasses", "num_class", "n_class")
_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_DEBUG = "run again with --debug to see where"


def call_factory(name: str, num_classes: int | None, seed: tuple[int, ...] | None) -> nn.Module:
    """Return the network of a factory.

    Args:
        num_classes: what it is asked for, if it can be; None to leave that to it, or 1000 where it must be told.
        seed: as for `build_model`.
    Raises:
        UsageError: it cannot be found.
        UnsupportedError: it raises, or returns something else.
    """
    factory = _find_factory(name)
    with guest(f"the factory `{name}` raised", _DEBUG):
        keyword = _own_keyword(factory)
        if keyword is not None and num_classes is None and _must_be_told(factory, keyword):
            num_classes = IMAGENET_CLASSES
        if num_classes is None:
            model = _call(factory, seed)
        elif keyword is not None:
            model = _call(factory, seed, **{keyword: num_classes})
        else:
            model = _call_by_any(factory, num_classes, seed) if _passes_on(factory) else _call(factory, seed)
    if not isinstance(model, nn.Module):
        raise UnsupportedError(f"the factory `{name}` returned {type(model).__name__}, not a torch.nn.Module")
    if (circle := _circle(model)) is not None:
        raise UnsupportedError(
            f"in the network of `{name}` a module holds one that it is part of, as `{circle}`: PyTorch would go "
            "round and round",
            "hide it from PyTorch, as in a list: `self.parent = [parent]`",
        )
    return model


def _circle(model: nn.Module) -> str | None:
    """Return the name by which a module is part of itself, None where none is."""
    known, path = set[nn.Module](), list[nn.Module]()

    def look(module: nn.Module, name: str) -> str | None:
        if module in path:
            return name
        if module in known:
            return None
        known.add(module)
        path.append(module)
        children = (
            look(child, f"{name}.{own}".lstrip(".")) for own, child in module._modules.items() if child is not None
        )
        found = next((circle for circle in children if circle is not None), None)
        path.pop()
        return found

    return look(model, "")


def takes_classes(name: str) -> bool:
    """Can a factory be asked for a number of classes?

    Raises:
        UsageError, UnsupportedError: it cannot be found or imported.
    """
    factory = _find_factory(name)
    return _own_keyword(factory) is not None or _passes_on(factory)


def _own_keyword(factory: Factory) -> str | None:
    """Return the name of the parameter by which a factory takes the number of classes, None where it has none."""
    for name in CLASS_KEYWORDS:
        parameter = inspect.signature(factory).parameters.get(name)
        if parameter is not None and parameter.kind in _BY_KEYWORD:
            # Under the other names some factories want a list of names, or a switch.
            default = parameter.default
            a_number = default is None or default is inspect.Parameter.empty or type(default) is int
            if name == "num_classes" or a_number:
                return name
    return None


def _must_be_told(factory: Factory, keyword: str) -> bool:
    return inspect.signature(factory).parameters[keyword].default is inspect.Parameter.empty


def _passes_on(factory: Factory) -> bool:
    """Does a factory take keywords that it does not name?"""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values())


def _call_by_any(factory: Factory, num_classes: int, seed: tuple[int, ...] | None) -> object:
    """Call a factory by the first keyword that whatever it passes it on to knows, or else by none."""
    for keyword in CLASS_KEYWORDS:
        try:
            return _call(factory, seed, **{keyword: num_classes})
        except TypeError as error:
            if f"'{keyword}'" not in str(error):  # else it is not known there
                break
        except Exception:  # nothing says that it may be asked: without, it tells what is wrong, if it still is
            break
    return _call(factory, seed)


def _call(factory: Factory, seed: tuple[int, ...] | None, **arguments: object) -> object:
    if seed is not None:
        seed_everything(*seed)  # anew: a module draws only when it is imported for the first time
    return factory(**arguments)


def _find_factory(name: str) -> Factory:
    module_name, _, attribute = name.partition(":")
    by_module = _by_module(module_name, attribute)
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise UsageError(
            f"`{name}` is not of the form package.module:factory", by_module or "for example `my_models:small_net`"
        )
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not look in the current folder by itself
        sys.path.insert(0, here)
    try:
        with held_settings():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise UsageError(
                f"no module `{module_name}` for the model `{name}`",
                by_module or "it is looked for in the current folder and among the installed packages",
            ) from error
        raise UnsupportedError(f"importing `{module_name}` failed: {error}", _DEBUG) from error
    except (Exception, SystemExit) as error:
        raise UnsupportedError(f"importing `{module_name}` raised {reason_of(error)}", _DEBUG) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UsageError(f"module `{module_name}` has no function `{attribute}`", did_you_mean(attribute, public))
    return factory


def _by_module(path: str, attribute: str) -> str | None:
    """Return the hint for a factory that was named by its file; None where it was not."""
    if not path.endswith(".py") and not Path(path + ".py").is_file():
        return None
    folder, _, file = path.removesuffix(".py").replace("\\", "/").removeprefix("./").rpartition("/")
    if not folder:
        return f"name it by its module: `{file}:{attribute}`"
    if all(part.isidentifier() for part in folder.split("/")):
        return f"name it by its module: `{folder.replace('/', '.')}.{file}:{attribute}`"
    return f"name it by its module, in the folder of the file: `cd {folder}`, then `{file}:{attribute}`"
