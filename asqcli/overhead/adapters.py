"""What an adapter of the paper's size holds and computes, by the input channels of its layer."""

from __future__ import annotations

from itertools import pairwise

from asqcli.quant.spec import AdapterSpec

PAPER_ADAPTER = AdapterSpec()


def adapter_parameters(channels: int) -> int:
    """Return the parameters of an adapter of the paper's size, biases included (Eq. 11).

    >>> adapter_parameters(64)
    1057
    """
    return sum(i * o + o for i, o in pairwise(PAPER_ADAPTER.widths(channels)))


def adapter_products(channels: int) -> int:
    """Return the multiply-adds of its linear layers for one image (Eq. 13).

    >>> adapter_products(64)
    1040
    """
    return sum(i * o for i, o in pairwise(PAPER_ADAPTER.widths(channels)))
