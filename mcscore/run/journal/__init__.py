"""The durable part of a run: one shard of scores and one record per span."""

from __future__ import annotations

from .journal import Damage, Journal, Record, Values

__all__ = ["Damage", "Journal", "Record", "Values"]
