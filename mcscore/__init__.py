"""mcscore: which items of a huge unlabeled pool should a human label next?

The public names load on first use, so that ``import mcscore`` costs nothing and needs neither zarr nor faiss.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "SCORES": "acquisition",
    "score_logits": "kernels.score",
    "Moments": "moments",
    "Error": "errors",
    "ModelError": "errors",
    "SiteError": "errors",
    "OutputError": "errors",
    "PrecisionError": "errors",
    "CheckError": "errors",
    "PoolError": "errors",
    "ChunkError": "errors",
    "PoolNotFoundError": "errors",
    "RunInUseError": "errors",
    "RunMadeError": "errors",
    "ImageError": "errors",
    "SampleError": "errors",
    "RunError": "errors",
    "Stopped": "errors",
    "register_score": "own_scores",
    "Scorer": "scorer",
    "Dropout": "scorer",
    "Execution": "scorer",
    "Pool": "pool",
    "TopK": "selection",
    "select": "selection",
    "RayWorkers": "run",
    "Run": "run",
    "ScoreOptions": "run.start",
    "Screen": "run",
    "Shard": "run.shards",
    "Workers": "run",
    "score": "run.data",
    "score_pool": "run",
    "score_shard": "run.shards",
}
__all__ = [
    "SCORES",
    "CheckError",
    "ChunkError",
    "Dropout",
    "Error",
    "Execution",
    "ImageError",
    "ModelError",
    "Moments",
    "OutputError",
    "Pool",
    "PoolError",
    "PoolNotFoundError",
    "PrecisionError",
    "RayWorkers",
    "Run",
    "RunError",
    "RunInUseError",
    "RunMadeError",
    "SampleError",
    "ScoreOptions",
    "Scorer",
    "Screen",
    "Shard",
    "SiteError",
    "Stopped",
    "TopK",
    "Workers",
    "__version__",
    "register_score",
    "score",
    "score_logits",
    "score_pool",
    "score_shard",
    "select",
]

if TYPE_CHECKING:
    from .acquisition import SCORES
    from .errors import (
        CheckError,
        ChunkError,
        Error,
        ImageError,
        ModelError,
        OutputError,
        PoolError,
        PoolNotFoundError,
        PrecisionError,
        RunError,
        RunInUseError,
        RunMadeError,
        SampleError,
        SiteError,
        Stopped,
    )
    from .kernels.score import score_logits
    from .moments import Moments
    from .own_scores import register_score
    from .pool import Pool
    from .run import RayWorkers, Run, Screen, Workers, score_pool
    from .run.data import score
    from .run.shards import Shard, score_shard
    from .run.start import ScoreOptions
    from .scorer import Dropout, Execution, Scorer
    from .selection import TopK, select


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mcscore' has no attribute {name!r}; public names: {', '.join(sorted(__all__))}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
