"""Processes that score one run together and have no contact but the run directory: on one machine, or on many with a common disk."""

from .disk import probe
from .number import Shard
from .score import ShardReport, score_shard

__all__ = ["Shard", "ShardReport", "probe", "score_shard"]
