"""Screening: few passes of every item, then all passes of the items that may still be among the best."""

from __future__ import annotations

from .options import Screen

__all__ = ["Screen"]
