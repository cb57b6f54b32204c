"""All cases by name."""

from __future__ import annotations

from . import batch, guards, hidden, idioms, inplace, inputs, law, law_shapes, recurrent, shapes, state  # noqa: F401
from .harness import CASES

__all__ = ["CASES"]
