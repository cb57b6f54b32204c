"""Scoring data that is no pool: datasets, loaders, arrays, files, batches."""

from .scoring import score

__all__ = ["score"]
