"""A model and how it is scored, as one object: ``Scorer`` turns batches of items into scores."""

from .scorer import Scorer

__all__ = ["Scorer"]
