"""The durable part of a run: a shard of scores and a record of each span."""

from __future__ import annotations

from ..record import Record
from .journal import Journal
from .reader import SpanDamage, Values, told
from .shard import ShardLayout

__all__ = ["Journal", "Record", "ShardLayout", "SpanDamage", "Values", "told"]
