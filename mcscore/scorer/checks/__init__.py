"""Does this look right? What a first sample of the pool says of a model and its input, before days are spent.

``look`` shows the model a sample (observe.py), tries what common mistakes would have needed where the answer is suspicious
(mistakes.py, suspicion.py), and asks every check of the table ``CHECKS``: pure functions of what was seen (seen.py).
"""

from .seen import Finding, Sample
from .table import CHECKS, look

__all__ = ["CHECKS", "Finding", "Sample", "look"]
