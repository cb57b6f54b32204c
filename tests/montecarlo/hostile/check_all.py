"""All cases by name, and a table of what becomes of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import batch, guards, hidden, idioms, inplace, inputs, law, law_shapes, recurrent, shapes, state  # noqa: F401
from .harness import CASES, Wrong, check


def main(names: Sequence[str]) -> int:
    """Check the cases named; print what became of each. 1 if any is wrong."""
    wrong = 0
    for name in names:
        try:
            print(f"{name}: {check(name)}", flush=True)
        except Wrong as error:
            wrong += 1
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    return int(wrong > 0)


__all__ = ["CASES", "main"]
