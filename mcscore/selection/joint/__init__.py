"""Joint selection: items whose labels together say most of the model (BatchBALD), or of its predictions elsewhere (EPIG)."""

from .batchbald import batchbald
from .epig import epig
from .samples import JointPicks

__all__ = ["JointPicks", "batchbald", "epig"]
