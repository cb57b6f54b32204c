"""A model and how it is scored, as one object: ``Scorer`` turns batches of items into scores."""

from .options import Dropout, Execution
from .scorer import Scorer

__all__ = ["Dropout", "Execution", "Scorer"]
