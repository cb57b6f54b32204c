"""Monte Carlo passes: where dropout acts in a model, and how T passes run for little more than the price of one."""

from __future__ import annotations

from .choose import choose_strategy
from .discovery import Site, discover
from .passes import Passes, Strategy

__all__ = ["Passes", "Site", "Strategy", "choose_strategy", "discover"]
