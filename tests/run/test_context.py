"""Where a run runs."""

import pytest
import torch

from asqcli.errors import MachineError, UsageError
from asqcli.run.context import select_device


def test_devices_that_are_not_there(monkeypatch):
    assert select_device("cpu") == torch.device("cpu")
    for name in ("tpu0", "mps"):
        with pytest.raises(UsageError, match="choose cpu or cuda"):
            select_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MachineError, match="no CUDA device"):
        select_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    used = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    assert select_device("cuda:1") == torch.device("cuda", 1) and used == [torch.device("cuda", 1)]
    with pytest.raises(MachineError, match="there are 2 CUDA devices, counted from 0"):
        select_device("cuda:2")
