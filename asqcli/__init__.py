"""asqcli: quantize convolutional networks to 2 to 8 bits, with adaptive step sizes and powers of the square root of two."""

from importlib.metadata import version

__version__ = version("asqcli")
