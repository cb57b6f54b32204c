"""Monte Carlo passes: where dropout acts in a model, and how T passes run for little more than the price of one."""

from __future__ import annotations

from .discovery import Site, discover
from .passes import Passes

__all__ = ["Passes", "Site", "discover"]
