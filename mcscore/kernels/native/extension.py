"""Loads the C++ extension, without torch, and sets the instruction set that MCSCORE_ISA asks for.

MCSCORE_ISA is "avx512", "avx2" or "baseline": one of those that the machine can run; by default the best of them.
"""

from __future__ import annotations

import os
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
