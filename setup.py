"""Builds the CPU kernels, ``mcscore._native``: plain C++17 with nanobind, no torch and no CMake, in an isolated build.

``csrc/kernels.cpp`` is compiled once per instruction set, each with its own flags; the best one that the machine can run is
chosen when the extension loads. Everything else about the package stands in pyproject.toml.

MCSCORE_NO_NATIVE=1 leaves the kernels out; MCSCORE_SANITIZE=1 builds them to find errors of memory and arithmetic (make sanitize).
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nanobind
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, CompileError

BASE = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-ffunction-sections",
    "-fdata-sections",
]
# fp-contract: a * b + c may become one fused operation. No -ffast-math: NaN and infinity carry meaning here.
KERNEL = [
    *BASE,
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-maybe-uninitialized",
    "-Wno-unknown-warning-option",
]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-O1", "-g1"]
if SANITIZED := os.environ.get("MCSCORE_SANITIZE") == "1":
    BASE, KERNEL = [*BASE, *SANITIZE], [*KERNEL, *SANITIZE]
X86_64 = {
    "baseline": ["-march=x86-64-v2"],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"],
}
OTHER = {"baseline": []}  # NEON belongs to every aarch64; elsewhere the compiler's default
HEADERS = sorted(str(p) for p in Path("csrc").glob("*.h"))


class BuildKernels(build_ext):
    """Compiles what needs flags of its own beside the bindings, and says in one sentence what a failed build needs."""

    def build_extension(self, ext: Extension) -> None:
        isas = X86_64 if self.plat_name.endswith(("x86_64", "amd64")) else OTHER
        libnanobind = Path(nanobind.source_dir()) / "nb_combined.cpp"
        jobs = [("csrc/kernels.cpp", isa, [("MCSCORE_ISA", isa)], [*KERNEL, *flags]) for isa, flags in isas.items()]
        jobs.append((str(libnanobind), "nanobind", ext.define_macros, BASE))

        def compile_one(job: tuple[str, str, list, list[str]]) -> list[str]:
            source, folder, macros, flags = job
            return self.compiler.compile(
                [source],
                output_dir=str(Path(self.build_temp) / folder),
                macros=macros,
                include_dirs=ext.include_dirs,
                extra_postargs=flags,
                depends=ext.depends,
            )

        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for objects in pool.map(compile_one, jobs):
                    ext.extra_objects += objects
            super().build_extension(ext)
        except (BaseError, CCompilerError, OSError) as error:
            reason = (
                str(error) if len(str(error)) < 200 else "the compiler's messages stand above"
            )  # not its command line
            raise CompileError(
                f"mcscore's CPU kernels did not compile ({reason}): they need a C++17 compiler, gcc >= 11 or clang >= 14 "
                "(Debian and Ubuntu: apt install g++); or set MCSCORE_NO_NATIVE=1 to install without them and score several "
                "times slower through PyTorch."
            ) from error


native = Extension(
    "mcscore._native",
    sources=["csrc/bind.cpp"],
    depends=[*sorted(str(p) for p in Path("csrc").glob("*.h")), "csrc/kernels.cpp"],
    include_dirs=[nanobind.include_dir(), str(Path(nanobind.source_dir()).parent / "ext" / "robin_map" / "include")],
    define_macros=[("NDEBUG", None), ("NB_COMPACT_ASSERTIONS", None)],
    extra_compile_args=BASE,
    extra_link_args=SANITIZE if SANITIZED else [] if sys.platform == "darwin" else ["-Wl,-s", "-Wl,--gc-sections"],
    language="c++",
)

setup(ext_modules=[] if os.environ.get("MCSCORE_NO_NATIVE") == "1" else [native], cmdclass={"build_ext": BuildKernels})
