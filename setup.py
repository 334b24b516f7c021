"""Find the packages, and compile the C of the engine and of training; without a compiler the package installs, too.

Each kernel file of the engine switches on its own instruction set, and one that the compiler does not know is left out.
-ffp-contract=off keeps multiplications and additions apart, which the format promises; -fno-tree-pre keeps a tile's
accumulators in registers (gcc 12 would store them in every step).
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

CSRC = Path("asqcli/engine/csrc")
ALONE = {  # libraries of one file: its source, and its flags
    "fake_quant": (Path("asqcli/quant/kernels/csrc/fake_quant.c"), []),
    # No format promises how gradients are rounded, and sums of whole numbers are not.
    "products": (Path("asqcli/nn/products/csrc/products.c"), ["-ffp-contract=fast"]),
}
WITHOUT = {  # what happens where a library cannot be compiled
    "native": "the native kernels were not compiled ({}); `asq infer` will use NumPy, training multiply more in floats",
    "fake_quant": "the passes of training were not compiled ({}); PyTorch's own will do, and take longer",
    "products": "the convolutions of training were not compiled ({}); PyTorch's own will do, and take longer",
}
EXTRA = os.environ.get("ASQ_NATIVE_FLAGS", "").split()  # sanitizers, for example
COMMON = ["-O3", "-fno-wrapv", "-Wno-psabi", "-g0", "-std=gnu11", "-fvisibility=hidden", "-ffp-contract=off"]
X86 = {
    "kernel_avx2.c": ["-mavx2", "-fno-tree-pre"],
    "kernel_avxvnni.c": ["-mavx2", "-mavxvnni", "-fno-tree-pre"],
    "kernel_avx512vnni.c": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-fno-tree-pre"],
}
GCC_ONLY = {"-fno-tree-pre"}  # csrc/README.md tells against what


class BuildKernels(build_ext):
    """Compiles file by file, for the flags differ, and lets a failure pass with one clear line."""

    def get_ext_filename(self, name: str) -> str:
        return str(Path(*name.split("."))) + ".so"  # loaded by ctypes: no tag of a Python version

    def build_extension(self, extension: Extension) -> None:
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            objects = self._compile(*ALONE[target.stem]) if target.stem in ALONE else self._engine_objects()
            self.compiler.link_shared_object(objects, str(target), libraries=["m"], extra_preargs=EXTRA)
        except Exception as error:  # no compiler, or one that does not know the flags
            sys.stderr.write(f"asqcli: {WITHOUT[target.stem].format(error)}\n")

    def _engine_objects(self) -> list[str]:
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        objects, defines = [], []
        for source in X86 if x86 else ():
            try:
                objects += self._compile_kernel(CSRC / source, X86[source])
                defines.append(f"-DASQ_{Path(source).stem.upper()}")
            except CompileError:
                sys.stderr.write(f"asqcli: this compiler cannot make {source}; other kernels will do its work\n")
        return objects + self._compile(CSRC / "kernel_scalar.c", []) + self._compile(CSRC / "dispatch.c", defines)

    def _compile_kernel(self, source: Path, flags: list[str]) -> list[str]:
        try:
            return self._compile(source, flags)
        except CompileError:  # clang, perhaps, which ends at a flag that it does not know
            return self._compile(source, [flag for flag in flags if flag not in GCC_ONLY])

    def _compile(self, source: Path, flags: list[str]) -> list[str]:
        return self.compiler.compile(
            [str(source)],
            output_dir=self.build_temp,
            include_dirs=[str(source.parent)],
            extra_postargs=[*COMMON, *flags, *EXTRA],  # after those that Python was built with
        )


setup(
    # The YAML files live at the top level, where people look for them, and are installed inside the package.
    packages=[*find_packages(include=["asqcli*"]), "asqcli.recipes"],
    package_dir={"asqcli": "asqcli", "asqcli.recipes": "recipes"},
    ext_modules=[
        Extension("asqcli.engine.csrc.native", sorted(str(p) for p in CSRC.glob("*.c")), optional=True),
        *(
            Extension(".".join(source.with_suffix("").parts), [str(source)], optional=True)
            for source, _ in ALONE.values()
        ),
    ],
    cmdclass={"build_ext": BuildKernels},
)
