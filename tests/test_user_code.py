import sys

import pytest
import torch
from torch import nn

from asqcli.errors import InputError, UnsupportedError
from asqcli.nn.forward import forward_in_evaluation
from asqcli.user_code import guest, held_settings

CHANGES = {
    "gradients": lambda: torch.set_grad_enabled(False),
    "type": lambda: torch.set_default_dtype(torch.float64),
    "device": lambda: torch.set_default_device("meta"),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "precision": lambda: torch.set_float32_matmul_precision("medium"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_settings_of_torch_are_held(change):
    with held_settings():
        change()
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert torch.zeros(1).device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_is_raised_is_told_with_its_place_in_the_source(tmp_path, monkeypatch):
    (tmp_path / "raising.py").write_text(
        "import torch\ndef deep(x):\n    return torch.zeros(2) @ torch.zeros(3)  # here\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import raising

    told = r"the net: RuntimeError: .*, at raising.py:3: `return .*# here`"
    with pytest.raises(UnsupportedError, match=told), guest("the net:"):
        raising.deep(1)
    sys.modules.pop("raising")


def test_ends_of_the_process_are_refused_and_errors_of_ours_pass():
    with pytest.raises(UnsupportedError, match="x SystemExit: 3"), guest("x"):
        sys.exit(3)
    with pytest.raises(InputError), guest("x"):
        raise InputError("ours")
    with pytest.raises(KeyboardInterrupt), guest("x"):
        raise KeyboardInterrupt


class Returns(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


@pytest.mark.parametrize("output", [None, (torch.zeros(2, 3),), torch.zeros(2, 3, 1, 1), torch.zeros(3, 2)])
def test_an_evaluation_that_gives_no_rows_of_logits(output):
    with pytest.raises(UnsupportedError, match="for 2 images the network returns"):
        forward_in_evaluation(Returns(output), torch.zeros(2, 3, 4, 4))


def test_logits_of_half_precision_become_float32():
    assert forward_in_evaluation(Returns(torch.ones(1, 2).bfloat16()), torch.zeros(1)).dtype == torch.float32
