"""The C++ kernels of ``mcscore._native`` on CPU tensors, one file per family: checks, output allocation, and the split over threads.

Results do not depend on the number of threads: an item is computed by one thread, always the same way.
"""

from .draws import draw, philox
from .dropout import dropout, keep_mask
from .extension import available, available_isas, isa, use_isa
from .head import dropout_head
from .joint import conditional_entropy
from .linear import dropout_linear
from .memory import DTYPES
from .score import LIKELIHOODS, accumulate, score

__all__ = [
    "DTYPES",
    "LIKELIHOODS",
    "accumulate",
    "available",
    "available_isas",
    "conditional_entropy",
    "draw",
    "dropout",
    "dropout_head",
    "dropout_linear",
    "isa",
    "keep_mask",
    "philox",
    "score",
    "use_isa",
]
