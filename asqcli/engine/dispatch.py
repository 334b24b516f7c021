"""The kernels by name, and the choice among them.

A native kernel runs whole networks; a NumPy kernel computes accumulators, and all of them share what lies between.
"""

from __future__ import annotations

from asqcli.artifact import Artifact
from asqcli.engine.interface import Kernel, NotNative
from asqcli.engine.native.bindings import PLAIN, compiled_kernels
from asqcli.engine.native.network import NativeNetwork
from asqcli.engine.numpy.matmul import MatmulKernel
from asqcli.engine.numpy.network import NumpyNetwork
from asqcli.engine.numpy.shift_lut import ShiftLutKernel
from asqcli.errors import MachineError, UnsupportedError, UsageError, did_you_mean

AUTO = "auto"
NATIVE_KERNELS = ("avx512-vnni", "avx-vnni", "avx2", "scalar")  # best first, here or not
NUMPY_KERNELS = ("matmul", "shift-lut")


def make_numpy_kernel(name: str) -> Kernel:
    """Return the kernel of that name, one of NUMPY_KERNELS."""
    return {kernel.name: kernel for kernel in (MatmulKernel, ShiftLutKernel)}[name]()


def usable_kernels() -> tuple[str, ...]:
    """Return the names of the kernels that this machine runs, the best first."""
    return (*(name for name, (_, supported) in compiled_kernels().items() if supported), *NUMPY_KERNELS)


def choose_network(
    artifact: Artifact, kernel: str, threads: int
) -> tuple[str, NativeNetwork | NumpyNetwork, str | None]:
    """Return (kernel's name, what runs the network, why NumPy and no native kernel, or None).

    Raises:
        UsageError, MachineError, UnsupportedError: a kernel that was asked for by name and cannot be had.
    """
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
    return name, NumpyNetwork(artifact, make_numpy_kernel(name), threads), notice


def _best() -> str:
    return next(name for name in usable_kernels() if name != PLAIN)


def _usable(kernel: str) -> str:
    """Return the name of a kernel that was asked for.

    Raises:
        UsageError, MachineError: there is none, or not here.
    """
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

    if not compiled_kernels():
        return "the native kernels were not compiled when asq was installed: running on NumPy, many times slower"
    return "there is no native kernel for this processor: running on NumPy, many times slower"
