"""Builds the CPU kernels, ``mcscore._native``: plain C++17 with nanobind, no torch and no CMake, in an isolated build.

``csrc/kernels.cpp`` is compiled once per instruction set, each with its own flags; the best one that the machine can run is
chosen when the extension loads. Everything else about the package stands in pyproject.toml.

From Python 3.12 on the bindings keep to the stable ABI: one wheel, cp312-abi3, serves that Python and all later ones. nanobind has
it for 3.12 and up, and CPython has none without its global lock; there the wheel is of one Python.

MCSCORE_NO_NATIVE=1 leaves the kernels out; MCSCORE_SANITIZE=1 builds them to find errors of memory and arithmetic (make sanitize).
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import tomllib
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
# The address sanitizer finds what is read or written through a bad pointer; checks of the pointer itself take half as long again.
SANITIZE = [
    "-fsanitize=address,undefined",
    "-fno-sanitize=null,object-size,vptr,pointer-overflow",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
    "-Og",
    "-g1",
]
if SANITIZED := os.environ.get("MCSCORE_SANITIZE") == "1":
    BASE, KERNEL = [*BASE, *SANITIZE], [*KERNEL, *SANITIZE]
X86_64 = {
    "baseline": ["-march=x86-64-v2"],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"],
}
OTHER = {"baseline": []}  # NEON belongs to every aarch64; elsewhere the compiler's default
HEADERS = sorted(str(p) for p in Path("csrc").glob("*.h"))
STABLE = sys.version_info >= (3, 12) and not sysconfig.get_config_var("Py_GIL_DISABLED")


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
    depends=[*HEADERS, "csrc/kernels.cpp"],
    include_dirs=[nanobind.include_dir(), str(Path(nanobind.source_dir()).parent / "ext" / "robin_map" / "include")],
    define_macros=[
        ("NDEBUG", None),
        ("NB_COMPACT_ASSERTIONS", None),
        *([("Py_LIMITED_API", "0x030C0000")] if STABLE else []),
    ],
    py_limited_api=STABLE,  # the file is _native.abi3.so
    extra_compile_args=BASE,
    extra_link_args=SANITIZE if SANITIZED else [] if sys.platform == "darwin" else ["-Wl,-s", "-Wl,--gc-sections"],
    language="c++",
)


def long_description() -> str:
    """README.md as a package index shows it, where a path leads nowhere.

    Paths become addresses at the tag of this version under Repository of [project.urls] in pyproject.toml (as GitHub, GitLab and
    Codeberg have them). Without that entry a link keeps its text alone and a picture is left out.
    """
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    repository = project.get("urls", {}).get("Repository", "").rstrip("/")

    def address(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        if target.startswith(("https://", "http://", "#")):
            return match.group()
        if not repository:
            return "" if picture else text
        return f"{picture}[{text}]({repository}/{'raw' if picture else 'blob'}/v{project['version']}/{target})"

    return re.sub(r"(!?)\[([^\]\n]*)\]\(([^)\s]+)\)", address, Path("README.md").read_text())


if __name__ == "__main__":  # as build backends run it, too
    modules = [] if os.environ.get("MCSCORE_NO_NATIVE") == "1" else [native]
    setup(
        long_description=long_description(),
        long_description_content_type="text/markdown",
        ext_modules=modules,
        cmdclass={"build_ext": BuildKernels},
        options={"bdist_wheel": {"py_limited_api": "cp312"}} if modules and STABLE else {},
    )
