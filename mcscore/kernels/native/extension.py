"""Loads the C++ extension, without torch, and says which instruction set it uses: the one that MCSCORE_ISA asks for.

MCSCORE_ISA is "avx512", "avx2" or "baseline": one of those that the machine can run; by default the best of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

native: Any
missing = ""  # why there is no extension
try:
    from ... import _native as native  # type: ignore[no-redef, attr-defined, unused-ignore]
except ImportError as error:
    native = None
    missing = f"the extension mcscore._native does not load ({error}); reinstall mcscore with a C++17 compiler at hand"

if native is not None and (_wanted := os.environ.get("MCSCORE_ISA")):
    if _wanted not in native.available_isas():
        raise ValueError(
            f"MCSCORE_ISA={_wanted!r}: this machine, or this build, does not have that instruction set; "
            f"choose from {', '.join(native.available_isas())}, or unset it"
        )
    native.use_isa(_wanted)


def loaded() -> Any:
    """The extension. Raises RuntimeError, with the reason, where there is none."""
    if native is None:
        raise RuntimeError(missing)
    return native


def available() -> tuple[bool, str]:
    """(True, "avx2") or (False, why the extension is missing)."""
    return (True, isa()) if native is not None else (False, missing)


def isa() -> str:
    """The instruction set in use: "avx512", "avx2" or "baseline" (x86-64-v2, or NEON on aarch64)."""
    return loaded().isa()


def available_isas() -> list[str]:
    """The instruction sets this machine can run, best first."""
    return loaded().available_isas()


@contextlib.contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Force one of ``available_isas()`` for the whole process while the context lasts; for tests and benchmarks."""
    before = isa()
    if name not in available_isas():
        raise ValueError(f"instruction set {name!r} is not available here; choose from {', '.join(available_isas())}")
    native.use_isa(name)
    try:
        yield
    finally:
        native.use_isa(before)
