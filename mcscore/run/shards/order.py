"""Which spans a shard scores, and in which order: its own, and then whatever nobody has committed."""

from __future__ import annotations

import random
from collections.abc import Iterator

from ..journal import Journal
from ..spans import Span


class Order:
    """The spans of a shard, each looked up just before it is its turn: it is passed over if it has a record by then.

    First come those of its own range, then those of the others without a record, at random so that those who help seldom meet.
    None comes twice. A shard that waits for nobody leaves nobody behind: of two that score the same span one commits it.

    Attributes:
        given: what came so far.
    """

    def __init__(self, journal: Journal, own: range, given: dict[int, Span], name: str) -> None:
        """Args: ``given`` is what this shard has tried before; ``name`` differs from shard to shard."""
        self.given = given
        self._journal, self._own, self._random = journal, own, random.Random(name)
        self._open: dict[int, Span] = {}
        self._ended = False

    def __iter__(self) -> Iterator[Span]:
        yield from self._without_record([self._journal.spans[index] for index in self._own if index not in self.given])
        while left := [span for span in self._journal.unrecorded() if span.index not in self.given]:
            self._random.shuffle(left)
            yield from self._without_record(left)
        self._ended = True

    def _without_record(self, spans: list[Span]) -> Iterator[Span]:
        for span in spans:
            if not self._journal.recorded(span):
                self.given[span.index] = self._open[span.index] = span
                yield span

    def done(self, span: Span) -> None:
        """A span that came was scored."""
        del self._open[span.index]

    @property
    def settled(self) -> bool:
        """Whether others have committed all that came and is not scored yet, and no more will come."""
        return self._ended and all(map(self._journal.recorded, list(self._open.values())))
