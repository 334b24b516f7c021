"""The kernels, and the choice among them.

A native kernel runs whole networks (see `native`). A NumPy kernel computes accumulators, nothing else: sums of products
of activation codes and weight levels, which are whole numbers, so that every kernel gives the same. Codes, scales,
pools and gates are `operations`, shared by the NumPy kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from asqcli.artifact import Artifact
from asqcli.errors import MachineError, UnsupportedError, UsageError, did_you_mean


@dataclass(frozen=True)
class Layer:
    """A convolution as kernels see it; a linear layer is one of 1x1 on one pixel.

    Attributes:
        levels: integer weights, (C_out, C_in / groups, height, width) int8.
        stride, dilation: (down, across).
        padding: (top, left, bottom, right), of zeros.
        groups: C_in and C_out are divided among them.
        qmin, qmax: bounds of the codes.
        largest_sum: bound on the magnitude of every partial sum.
    """

    levels: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    qmin: int
    qmax: int
    largest_sum: int

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Return (height, width) of the window."""
        return self.levels.shape[2], self.levels.shape[3]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the output for an input of that size."""
        top, left, bottom, right = self.padding
        padded = height + top + bottom, width + left + right
        return tuple(
            (n - d * (k - 1) - 1) // s + 1
            for n, d, k, s in zip(padded, self.dilation, self.kernel_size, self.stride, strict=True)
        )


class Kernel(Protocol):
    """What a NumPy kernel offers."""

    name: str

    def pack(self, layer: Layer) -> Any:
        """Return the layer's weights in the order that suits the kernel; called once, at load."""
        ...

    def accumulate(self, codes: np.ndarray, layer: Layer, packed: Any) -> np.ndarray:
        """Return the accumulators, (N, C_out, H_out, W_out): whole numbers, int32 or a float that holds them exactly.

        Args:
            codes: (N, C_in, H, W), whole numbers in float32 within the layer's bounds; not to be changed.
            packed: what `pack` returned.
        """
        ...


AUTO = "auto"
NATIVE_KERNELS = (
    "avx512-vnni",
    "avx-vnni",
    "avx2",
    "scalar",
)  # best first, here or not
NUMPY_KERNELS = ("matmul", "shift-lut")
PLAIN = "scalar"  # plain C loops, to compare with: matrix products in NumPy are faster


def make_numpy_kernel(name: str) -> Kernel:
    """Return the kernel of that name, one of NUMPY_KERNELS."""
    from asqcli.engine.matmul import MatmulKernel
    from asqcli.engine.shift_lut import ShiftLutKernel

    return {kernel.name: kernel for kernel in (MatmulKernel, ShiftLutKernel)}[name]()


def usable_kernels() -> tuple[str, ...]:
    """Return the names of the kernels that this machine runs, the best first."""
    from asqcli.engine.native_library import compiled_kernels

    return (*(name for name, (_, supported) in compiled_kernels().items() if supported), *NUMPY_KERNELS)


def choose_network(artifact: Artifact, kernel: str, threads: int):
    """Return (kernel's name, what runs the network, why NumPy and no native kernel, or None).

    Raises:
        UsageError, MachineError, UnsupportedError: a kernel that was asked for by name and cannot be had.
    """
    from asqcli.engine.native import NativeNetwork
    from asqcli.engine.native_memory import NotNative

    name, notice = (_best(), None) if kernel == AUTO else (_usable(kernel), None)
    if kernel == AUTO and name not in NATIVE_KERNELS:
        notice = _why_no_native()
    if name in NATIVE_KERNELS:
        try:
            return name, NativeNetwork(artifact, name, threads), None
        except NotNative as reason:
            if kernel != AUTO:
                raise UnsupportedError(f"the kernel `{name}` has no step for {reason}", "use `--kernel auto`") from None
            name, notice = NUMPY_KERNELS[0], f"the native kernels have no step for {reason}: running on NumPy, slower"
    from asqcli.engine.numpy_network import NumpyNetwork

    return name, NumpyNetwork(artifact, make_numpy_kernel(name), threads), notice


def _best() -> str:
    return next(name for name in usable_kernels() if name != PLAIN)


def _usable(kernel: str) -> str:
    """Return the name of a kernel that was asked for.

    Raises:
        UsageError, MachineError: there is none, or not here.
    """
    from asqcli.engine.native_library import compiled_kernels

    usable = usable_kernels()
    if kernel in usable:
        return kernel
    if kernel not in NATIVE_KERNELS:
        names = (AUTO, *NATIVE_KERNELS, *NUMPY_KERNELS)
        raise UsageError(f"there is no kernel `{kernel}`", did_you_mean(kernel, names) or f"choose {', '.join(names)}")
    if kernel in compiled_kernels():
        raise MachineError(f"this processor does not run the kernel `{kernel}`", f"it runs {', '.join(usable)}")
    raise MachineError(
        f"the kernel `{kernel}` was not compiled", "install asq again with a C compiler that knows its instructions"
    )


def _why_no_native() -> str:
    from asqcli.engine.native_library import compiled_kernels

    if not compiled_kernels():
        return "the native kernels were not compiled when asq was installed: running on NumPy, many times slower"
    return "there is no native kernel for this processor: running on NumPy, many times slower"
