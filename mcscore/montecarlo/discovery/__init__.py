"""Where a model drops: a probe in training mode finds the sites, a trace in evaluation mode measures them."""

from .discover import discover
from .sites import Discovery, Site

__all__ = ["Discovery", "Site", "discover"]
