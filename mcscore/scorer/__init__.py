"""``Scorer``: a model with the options by which it turns batches of items into scores."""

from .options import Dropout, Execution
from .scorer import Scorer

__all__ = ["Dropout", "Execution", "Scorer"]
