"""Quantize convolutional networks to 2 to 8 bits: adaptive step sizes, powers of the square root of two."""

from importlib.metadata import version

__version__ = version("asqcli")
