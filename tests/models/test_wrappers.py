import warnings

import pytest
import torch
from torch import nn

from asqcli.errors import UnsupportedError
from asqcli.models.wrappers import unwrap
from asqcli.nn.survey import refuse_unsupported


def compiled(module):
    return torch.compile(module, backend="eager")


def names(model):
    return [name for name, _ in model.named_parameters()]


def test_wrappers_are_taken_off_around_and_inside():
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))
    expected, inner = names(plain), plain[1]
    plain[1] = nn.DataParallel(compiled(inner))
    model, found = unwrap(nn.DataParallel(compiled(plain)))
    assert model is plain and model[1] is inner and names(model) == expected
    assert found == ("`DataParallel`", "`torch.compile`")
    assert unwrap(plain) == (plain, ())


def test_what_was_compiled_in_place_runs_as_it_was_written():
    calls = []

    class Watched(nn.Conv2d):
        def forward(self, x):
            calls.append(torch.compiler.is_compiling())
            return super().forward(x)

    model = nn.Sequential(Watched(3, 4, 1), Watched(4, 4, 1))
    model.compile(backend="eager")
    model[1].forward = compiled(model[1].forward)
    _, found = unwrap(model)
    model(torch.zeros(1, 3, 2, 2))
    assert calls == [False, False] and found == ("`torch.compile`",)


def test_hooks_on_a_wrapper_are_not_lost_unnoticed():
    model = nn.DataParallel(nn.Conv2d(3, 4, 1))
    model.register_forward_hook(lambda *_: None)
    with pytest.raises(UnsupportedError, match="inside `DataParallel` has hooks"):
        unwrap(model)


def test_scripted_layers_are_refused_and_scripted_activations_are_not():
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and used
        scripted = torch.jit.script(layers), torch.jit.trace(layers, torch.zeros(1, 3, 2, 2))
        activation = torch.jit.script(nn.ReLU())
    for model, where in ((scripted[0], "the network"), (nn.Sequential(scripted[1]), "layer `0`")):
        with pytest.raises(UnsupportedError, match=f"{where} is a TorchScript module"):
            refuse_unsupported(model)
    refuse_unsupported(nn.Sequential(nn.Conv2d(3, 4, 1), activation))
