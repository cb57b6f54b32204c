"""A run: a pool scored by a model into a directory, durable and resumable, and the selections made from it."""

from __future__ import annotations

from ..errors import RunError, Stopped
from .run import Run
from .score import score_pool
from .screening import Screen

__all__ = ["Run", "RunError", "Screen", "Stopped", "score_pool"]
