import numpy as np
import pytest
import torch

from asqcli.quant.activation_quantizers import make_activation_quantizer
from asqcli.quant.adapter import Adapter
from asqcli.quant.kernels import dispatch
from asqcli.quant.spec import AdapterSpec, AsqActivations

PAPER = AdapterSpec()


def settled(channels, spec=PAPER, *, channels_last=False):
    """An adapter whose last layer is no longer near zero."""
    torch.manual_seed(0)
    adapter = Adapter(channels, spec, channels_last=channels_last)
    with torch.no_grad():
        adapter.layers[-1].weight.normal_(std=2.0)
    return adapter


def test_widths_follow_the_paper():
    widths = [PAPER.widths(channels) for channels in (3, 7, 8, 16, 512)]
    assert widths == [(3, 1), (7, 1), (8, 2, 1), (16, 4, 1), (512, 128, 1)]
    assert len(Adapter(4, PAPER).layers) == 1


@pytest.mark.parametrize("output", ["reciprocal", "relu"])
@pytest.mark.parametrize("channels", [3, 32])
def test_beta_starts_near_one_and_every_layer_learns(channels, output):
    torch.manual_seed(0)
    adapter = Adapter(channels, AdapterSpec(output=output))
    beta = adapter(torch.rand(5, channels, 4, 4))
    assert beta.shape == (5, 1, 1, 1) and (beta - 1).abs().max() < 0.05
    beta.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in adapter.parameters())


def test_beta_is_positive_with_a_gradient_everywhere():
    adapter = Adapter(1, AdapterSpec(bits="float"))
    with torch.no_grad():
        adapter.layers[0].weight.fill_(1.0)
    x = torch.linspace(-100, 100, 401).reshape(-1, 1, 1, 1).requires_grad_()
    beta = adapter(x)
    beta.sum().backward()
    assert (beta > 0).all() and (x.grad > 0).all()
    t = x.detach().flatten().double()
    expected = torch.tensor([1 + v if v >= 0 else 1 / (1 - v) for v in t.tolist()])
    torch.testing.assert_close(beta.detach().flatten(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bits", [8, "float"])
def test_training_and_evaluation_agree_up_to_rounding(bits):
    adapter = settled(32, AdapterSpec(bits=bits))
    x = torch.rand(6, 32, 5, 7)
    torch.testing.assert_close(adapter.train()(x), adapter.eval()(x), rtol=1e-4, atol=1e-5)


def test_evaluation_does_not_depend_on_the_batch():
    adapter = settled(64).eval()
    x = torch.randn(37, 64, 6, 6)
    together = adapter(x)
    assert torch.equal(together, torch.cat([adapter(x[i : i + 1]) for i in range(37)]))


def test_evaluation_equals_a_second_form_in_numpy_to_the_bit():
    adapter = settled(16).eval()
    x = torch.randn(3, 16, 2, 3)
    hidden = x.numpy().astype(np.float64)
    pooled = np.zeros((3, 16))
    for row in range(2):
        row_sum = np.zeros((3, 16))
        for column in range(3):
            row_sum = row_sum + hidden[:, :, row, column]
        pooled = pooled + row_sum
    hidden = (pooled / 6).astype(np.float32).astype(np.float64)
    for k, layer in enumerate(adapter.layers):
        weight = layer.weight.detach().numpy()
        scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
        codes = np.clip(np.round(weight * (np.float32(1) / scale)), -127, 127).astype(np.float64)
        hidden = np.maximum(hidden, 0) if k else hidden
        out = np.empty((3, len(weight)))
        for n in range(3):
            for o in range(len(weight)):
                lanes = np.zeros(8)
                for j in range(weight.shape[1]):
                    lanes[j % 8] += hidden[n, j] * codes[o, j]
                lanes = lanes[:4] + lanes[4:]
                lanes = lanes[:2] + lanes[2:]
                out[n, o] = (lanes[0] + lanes[1]) * np.float64(scale[o, 0]) + np.float64(layer.bias[o].item())
        hidden = out
    beta = np.where(hidden >= 0, 1 + hidden, 1 / (1 - np.minimum(hidden, 0))).astype(np.float32)
    assert np.array_equal(adapter(x).detach().numpy().reshape(3, 1), beta)


def test_linear_layers_are_adapted_by_their_input_vector():
    adapter = settled(24, channels_last=True)
    assert adapter(torch.randn(4, 24)).shape == (4, 1)
    assert adapter(torch.randn(4, 9, 24)).shape == (4, 1, 1)


@pytest.mark.parametrize(("shape", "channels_last"), [((6, 24, 5, 5), False), ((6, 3, 5, 5), False), ((6, 24), True)])
def test_one_pass_equals_the_adapter_and_then_the_rounding(shape, channels_last, monkeypatch):
    torch.manual_seed(0)
    quantizer = make_activation_quantizer(shape[1], AsqActivations(bits=4), signed=False, channels_last=channels_last)
    for layer in quantizer.adapter.linears:
        torch.nn.init.normal_(layer.weight, std=0.5)
    quantizer.start(torch.rand(100), "mse")
    x, grad = torch.rand(shape, requires_grad=True), torch.randn(shape)

    def gradients():
        x_hat = quantizer(x)
        return x_hat, *torch.autograd.grad(x_hat, (x, *quantizer.parameters()), grad)

    found = gradients()
    monkeypatch.setattr(dispatch, "adapts", lambda *_: False)
    for a, b in zip(found, gradients(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item())  # sums of what cancels


def test_the_largest_weight_of_a_row_has_a_gradient():
    adapter = Adapter(4, AdapterSpec())
    adapter(torch.rand(3, 4, 2, 2)).sum().backward()
    assert adapter.linears[0].weight.grad.ne(0).all()
