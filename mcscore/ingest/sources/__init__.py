"""Sources of encoded images: folders, WebDataset tars, Parquet.

A source yields its entries in an order that depends only on its content, and can start at any entry without reading those
before it, so a killed import resumes. Nothing is unpacked to disk; names in archives become keys, not paths.
"""

from __future__ import annotations

from .entry import Entry, Part, Position, Source, key_problem, shown
from .open import SOURCES, is_images, open_source
from .patterns import expand_braces

__all__ = [
    "SOURCES",
    "Entry",
    "Part",
    "Position",
    "Source",
    "expand_braces",
    "is_images",
    "key_problem",
    "open_source",
    "shown",
]
