"""Processes that score one run together and have no contact but the run directory: on one machine, or on many with a common disk."""

from .number import Shard
from .score import ShardReport, score_shard

__all__ = ["Shard", "ShardReport", "score_shard"]
