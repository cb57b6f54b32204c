"""The active-learning cycle: train, score, select, label, repeat; durable round by round.

    labeled ids ──fit──▶ model ──score_pool──▶ run ──select──▶ ids ──oracle──▶ labels ──▶ labeled ids

The caller trains: ``fit`` gets a pool and the labeled ids, and returns a model. ``cycle`` does the rest, ``cycles`` does so for several
methods and seeds. Labels stand in a pool of the cycle's own, which borrows the items of the one that is given.
"""

from .loop import cycle
from .seeds import cycles
from .state import Curve, Round, read_cycle
from .stop import Stop

__all__ = ["Curve", "Round", "Stop", "cycle", "cycles", "read_cycle"]
