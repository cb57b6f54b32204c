"""Errors about a model, raised by discovery and by the passes."""

from __future__ import annotations


class SiteError(ValueError):
    """A model's dropout is missing, cannot be driven, or did not fire. The message names the sites."""


class RowsError(SiteError):
    """A tensor at a site does not hold the items as it did when the site was found."""


class PassError(SiteError):
    """A model cannot run a forward pass in the configuration that is tried."""


class DrawError(SiteError):
    """A model draws random numbers in evaluation mode, and which constants stand for them is not known yet."""
