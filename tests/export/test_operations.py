"""Operations are registered in one place each: functions of torch, their handler and the words for it."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from asqcli.export.operations import HANDLERS, SUPPORTED, elementwise, slices
from asqcli.export.operations.registry import lowers


def test_a_name_stands_for_functions_and_methods_also_in_place():
    for function in (torch.relu, torch.relu_, F.relu, Tensor.relu, Tensor.relu_):
        assert HANDLERS[function] is elementwise.relu
    assert HANDLERS[torch.chunk] is HANDLERS[Tensor.chunk] is slices.chunk
    assert torch.exp not in HANDLERS


def test_errors_tell_all_that_the_engine_has():
    assert SUPPORTED == (
        "the engine has quantized convolutions and linear layers, batch norm, ReLU and other clamps, sigmoid, SiLU, "
        "hard sigmoid, hard swish, GELU, leaky ReLU, PReLU, log_softmax at the end, sums, differences, products, "
        "tanh, quotients by constants, expansions, repetitions, max pools, average pools, adaptive max pools, nearest "
        "resampling, adaptive average pools, means along dimensions, sums along dimensions, largest values along a "
        "dimension, maxima and minima, magnitudes, reshapes, transposes, permutations, shuffles of channels and "
        "pixels, concatenation, stacks, dropout, copies, chunks, splits, unbinding, slices and padding"
    )


def test_a_function_has_one_handler_and_exists():
    with pytest.raises(LookupError, match="has a handler already"):
        lowers("softmax", "relu", says="softmax")
    with pytest.raises(LookupError, match="no function or method `sofmax`"):
        lowers("sofmax", says="softmax")
