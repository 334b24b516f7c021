"""What people put around a network to run it faster or on more devices; the network inside is what asq works on."""

from __future__ import annotations

from torch import nn

from asqcli.errors import UnsupportedError


def unwrap(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return `model` without the wrappers in it and around it, and the names of what was taken off.

    Raises:
        UnsupportedError: a wrapper has hooks, which would be lost with it.
    """
    found: dict[str, None] = {}  # in order, each once
    model = _inside(model, found)
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child is not None:
                module._modules[name] = _inside(child, found)
    for module in model.modules():
        _leave_uncompiled(module, found)
    return model, tuple(found)


def _inside(module: nn.Module, found: dict[str, None]) -> nn.Module:
    while (wrapper := _wrapper_of(module)) is not None:
        name, attribute = wrapper
        if module._forward_hooks or module._forward_pre_hooks:
            raise UnsupportedError(f"the network inside {name} has hooks on it", "register them on the network itself")
        found[name] = None
        module = module.get_submodule(attribute)
    return module


def _wrapper_of(module: nn.Module) -> tuple[str, str] | None:
    """Return the name of a wrapper and where it holds its network, or None."""
    # By name: torch's compiler takes a second to import, and whoever compiled has done so.
    if type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules:
        return "`torch.compile`", "_orig_mod"
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return f"`{type(module).__name__}`", "module"
    return None


def _leave_uncompiled(module: nn.Module, found: dict[str, None]) -> None:
    """Undo `module.compile()` and `module.forward = torch.compile(module.forward)`."""
    if getattr(module, "_compiled_call_impl", None) is not None:
        module._compiled_call_impl = None
        found["`torch.compile`"] = None
    forward = vars(module).get("forward")
    if (original := getattr(forward, "_torchdynamo_orig_callable", None)) is not None:
        module.forward = original
        found["`torch.compile`"] = None
