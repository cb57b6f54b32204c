"""What happens, for those who keep logs: each event is a record of a logger below "mcscore", with its fields.

    logging.getLogger("mcscore").setLevel(logging.INFO)     and a handler of the caller's: events are off otherwise

A record has the attributes ``event``, a few words that are the same for all events of a kind, and ``fields``, which JSON can
hold; its message has both. Warnings (``warnings.warn``) are for people, and are no events. docs/operating.md lists the events.
"""

from __future__ import annotations

import logging
from typing import Any

logging.getLogger("mcscore").addHandler(logging.NullHandler())


class _Fields:
    """Fields as text, made when a record is formatted."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __str__(self) -> str:
        return "".join(f" {name}={value}" for name, value in self._fields.items())


def event(module: str, what: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event. Nothing is formatted, and 1 to 3 us are spent, where nobody listens.

    Args:
        module: ``__name__`` of the caller, which is the logger's.
        what: the kind of the event.
        level: of ``logging``.
        fields: what JSON can hold.

    >>> logging.getLogger("mcscore").setLevel(logging.INFO)
    >>> with_handler = logging.StreamHandler(__import__("sys").stdout)
    >>> logging.getLogger("mcscore").addHandler(with_handler)
    >>> event("mcscore.run.journal.journal", "span committed", span=3, items=256)
    span committed span=3 items=256
    >>> logging.getLogger("mcscore").removeHandler(with_handler)
    >>> logging.getLogger("mcscore").setLevel(logging.NOTSET)
    """
    logger = logging.getLogger(module)
    if logger.isEnabledFor(level):
        logger.log(level, "%s%s", what, _Fields(fields), extra={"event": what, "fields": fields})
