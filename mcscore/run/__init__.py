"""A run: a pool scored by a model into a directory, durable and resumable, and the selections made from it."""

from __future__ import annotations

from ..errors import RunError, Stopped
from .run import Run
from .score import score_pool

__all__ = ["Run", "RunError", "Stopped", "score_pool"]
