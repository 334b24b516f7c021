"""A whole training step on PyTorch's device without values: a tensor made on the CPU in its midst would be an error."""

import pytest
import torch
from torch.nn import functional as F

from asqcli.api import bounded_steps, quantize_module
from asqcli.nn.modes import to_training
from asqcli.nn.precision import forward_in
from asqcli.train.forward import backward_in_training, logits_in_training
from asqcli.train.optimizer import make_optimizer
from tests.export.cases import SETTINGS


@pytest.mark.parametrize("chosen", SETTINGS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_step_follows_its_network_to_another_device(tiny_net, chosen, memory_format, precision):
    images = torch.randn(4, 3, 16, 16).to(memory_format=memory_format)
    model = quantize_module(tiny_net, [images], **SETTINGS[chosen]).to("meta")
    to_training(model)
    optimizer = make_optimizer(model, "sgd", lr=0.1, momentum=0.9, weight_decay=1e-4)
    with forward_in(precision, torch.device("meta")):
        logits = logits_in_training(model, images.to("meta"), 10)
        loss = F.cross_entropy(logits, torch.zeros(4, dtype=torch.int64, device="meta"))
        backward_in_training(loss)
    with bounded_steps(model):
        optimizer.step()
    assert {p.grad.device.type for p in model.parameters() if p.requires_grad} == {"meta"}
