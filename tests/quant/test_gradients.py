"""What backwards have in common."""

import torch
from torch.overrides import TorchFunctionMode

from asqcli.quant.activation_quantizers import make_activation_quantizer
from asqcli.quant.gradients import from_saved
from asqcli.quant.spec import AsqActivations


class Seen(TorchFunctionMode):
    """Notes what it sees."""

    def __init__(self):
        super().__init__()
        self.functions = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 2 * x

    @staticmethod
    @from_saved
    def backward(ctx, saved, grad):
        [x] = saved
        return 2 * grad + 0 * x


def run_backward(y):
    """As training does: `y.backward()` itself leaves the modes."""
    torch.autograd.Variable._execution_engine.run_backward((y,), (torch.ones_like(y),), False, False, (), True, True)


def test_a_mode_sees_what_is_computed_again_for_a_backward_and_not_the_backward():
    x = torch.ones(3, requires_grad=True)

    def again(kept):
        return torch.sin(kept)

    with Seen() as seen:
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach(), again):
            y = Doubled.apply(x).sum()
        seen.functions.clear()
        run_backward(y)
        assert torch.equal(x.grad, torch.full((3,), 2.0))
    assert torch.sin in seen.functions and torch.Tensor.__rmul__ not in seen.functions


def test_a_mode_sees_nothing_of_a_fake_quantizer_s_backward():
    torch.manual_seed(0)
    quantizer = make_activation_quantizer(16, AsqActivations(bits=4), signed=False, channels_last=False)
    x = torch.rand(2, 16, 4, 4, requires_grad=True)
    quantizer.start(x.detach(), "mse")
    with Seen() as seen:
        y = quantizer(x).square().sum()
        seen.functions.clear()
        run_backward(y)
    by_pytorch = torch.ones_like, torch._C._set_grad_enabled
    assert x.grad is not None and not [f for f in seen.functions if f not in by_pytorch]
