"""The range of what adapters answer."""

import copy

import torch

from asqcli.api import quantize_module
from asqcli.nn.prepare import quant_layers
from asqcli.train.adapter_range import record_betas, span
from tests.parts_in_threads import in_threads


def test_ranges_are_those_of_the_adapters_while_it_is_open(tiny_net):
    quantize_module(tiny_net, [torch.randn(4, 3, 8, 8)])
    layers = dict(quant_layers(tiny_net))
    with torch.no_grad():
        for name, bias in {"depthwise": 0.5, "pointwise": -1.0}.items():  # beta is 1 + t, below zero 1 / (1 - t)
            last = layers[name].activation_quantizer.adapter.layers[-1]
            last.weight.zero_()
            last.bias.fill_(bias)
    with record_betas(tiny_net) as betas, torch.no_grad():
        for _ in range(3):
            tiny_net(torch.randn(2, 3, 8, 8))
    assert betas.keys() == {"depthwise", "pointwise", "linear_bottleneck"}
    assert betas["depthwise"] == (1.5, 1.5) and betas["pointwise"] == (0.5, 0.5)
    low, high = betas["linear_bottleneck"]
    assert low < high and span(betas) == (0.5, 1.5)
    before = dict(betas)
    with torch.no_grad():
        layers["depthwise"].activation_quantizer.adapter.layers[-1].bias.fill_(9.0)
        tiny_net(torch.randn(2, 3, 8, 8))
    assert betas == before


def test_ranges_of_several_processes_are_those_over_all_images(tiny_net):
    images = torch.randn(6, 3, 8, 8)
    model = quantize_module(tiny_net, [images]).eval()
    with record_betas(model) as expected:
        model(images)

    def work(threads):
        own = copy.deepcopy(model)
        with record_betas(own, threads) as betas:
            if threads.rank:  # the first one has no images
                own(images[3 * threads.rank - 3 : 3 * threads.rank])
        return betas

    assert in_threads(3, work) == [expected] * 3
