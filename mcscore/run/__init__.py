"""A run: a pool scored by a model into a directory, durable and resumable, and the selections made from it."""

from __future__ import annotations

from ..errors import RunError, Stopped
from .run import Run
from .score import score_pool
from .scoring.ray_workers import RayWorkers
from .scoring.workers import Workers
from .screening import Screen

__all__ = ["RayWorkers", "Run", "RunError", "Screen", "Stopped", "Workers", "score_pool"]
