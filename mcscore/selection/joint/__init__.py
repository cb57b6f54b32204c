"""Joint selection: items whose labels together say most of the model (BatchBALD), or of its predictions elsewhere (EPIG)."""

from .batchbald import batchbald
from .candidates import JointPicks
from .epig import epig

__all__ = ["JointPicks", "batchbald", "epig"]
