"""The active-learning cycle: train, score, select, label, repeat; durable round by round.

    labeled ids ──fit──▶ model ──score_pool──▶ run ──select──▶ ids ──oracle──▶ labels ──▶ labeled ids

The caller trains: ``fit`` gets a pool and the labeled ids, and returns a model. ``cycle`` does the rest, ``cycles`` does so for several
methods and seeds. Labels stand in a pool of the cycle's own, which borrows the items of the one that is given.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# On first use: a report reads what a cycle left without torch.
_HOME = {"Curve": "state", "Round": "state", "Stop": "stop", "cycle": "loop", "cycles": "seeds", "read_cycle": "state"}
__all__ = ["Curve", "Round", "Stop", "cycle", "cycles", "read_cycle"]

if TYPE_CHECKING:
    from .loop import cycle
    from .seeds import cycles
    from .state import Curve, Round, read_cycle
    from .stop import Stop


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mcscore.cycle' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
