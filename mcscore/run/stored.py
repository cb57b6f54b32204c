"""What scoring has left on disk, read back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..errors import RunError
from ..store.files import AnyPath, is_there
from .journal import Journal, Record, Values
from .schema import JSON
from .screening.options import DIRECTORY


class StoredScores:
    """The scores of the items of a pool, as far as they are committed.

    What is not committed, labeled, excluded, or without a finite score reads NaN (predictions of classes: -1). Values
    are checked against their checksums whenever they are read: RunError names a damaged file.

    Attributes:
        path: the run directory, or its URL.
        meta: the content of run.json, with the default of every field that it lacks.
    """

    def __init__(self, journal: Journal, committed: Sequence[Record]) -> None:
        self.path: AnyPath = journal.path
        self.meta: JSON = journal.header.to_json()
        self.header = journal.header
        self._journal, self._records = journal, tuple(committed)

    def __repr__(self) -> str:
        scores = ", ".join(self.meta["scores"])
        return f"{type(self).__name__}({str(self.path)!r}, {self.done:,} of {self.n:,} items done, scores={scores})"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what is stored of every item beside the prediction: the scores, and with errors ``bald_se``, ``bald_bias``, ..."""
        return self.header.rows[:-1]

    @cached_property
    def screen(self) -> StoredScores | None:
        """The first stage of a screened run: scores of all items from few passes, with their errors; None if there is none.

        Raises:
            RunError: the first stage is damaged.
        """
        if not self.header.screened or not is_there(self.path / DIRECTORY / "run.json"):
            return None
        journal = Journal.open(self.path / DIRECTORY)
        return StoredScores(journal, journal.survey().records)

    def passes_of(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """The passes that the scores of the items start..stop-1 are from; 0 where there is none.

        Of a screened run: all passes for what survived or is audited, and those of ``screen`` for the rest.
        """
        passes = np.zeros(stop - start, np.int32)
        for stage in (self.screen, self):
            if stage is not None:
                scored = np.isfinite(stage.part(stage.header.settings.scores[0], start, stop))
                passes[scored] = stage.header.settings.passes
        return passes

    @property
    def passes(self) -> npt.NDArray[np.int32]:
        """(N,) the passes that the scores of each item are from, see ``passes_of``."""
        return self.passes_of(0, self.n)

    @property
    def n(self) -> int:
        """Items in the pool."""
        return int(self.meta["pool"]["n"])

    @property
    def done(self) -> int:
        """Items in committed spans, with those that were skipped there because they were labeled or excluded."""
        return sum(record.span.n for record in self._records)

    @property
    def scored(self) -> int:
        """Items that went through the model and are committed."""
        return sum(record.scored for record in self._records)

    @property
    def complete(self) -> bool:
        """Whether every item is done."""
        return self.done == self.n

    @property
    def seconds(self) -> float:
        """Time spent on the committed spans, over all attempts."""
        return sum(record.seconds for record in self._records)

    @property
    def items_per_second(self) -> float:
        """Items scored per second spent."""
        return self.scored / self.seconds if self.seconds else 0.0

    @property
    def nonfinite_ids(self) -> npt.NDArray[np.int64]:
        """Items the model gave NaN or infinity for, ascending."""
        return np.array([i for record in self._records for i in record.nonfinite_ids], np.int64)

    @property
    def unreadable_ids(self) -> npt.NDArray[np.int64]:
        """Items that were skipped because the pool could not be read there, ascending."""
        ranges = [np.arange(start, stop) for record in self._records for start, stop in record.unreadable]
        return np.concatenate(ranges) if ranges else np.empty(0, np.int64)

    @property
    def prediction(self) -> Values:
        """(N,) int32 classes, -1 where there is none; for likelihood gaussian float32 means, NaN where there is none."""
        return self._values("prediction")

    def scores(self, name: str) -> npt.NDArray[np.float32]:
        """(N,) float32 of a column, NaN where there is none. Raises RunError for a column that the run does not have.

        Of a run with errors ``scores("bald_se")`` is the standard error of ``scores("bald")``, and ``scores("bald_bias")`` the bias:
        the corrected score is the score minus its bias.
        """
        if name not in self.columns:
            without = name.endswith(("_se", "_bias")) and not self.meta["errors"]
            hint = ". Errors are stored of runs that were scored with errors=True (--errors)" if without else ""
            raise RunError(f"{self.path} has no score {name!r}; it has {', '.join(self.columns)}{hint}")
        return self._values(name)

    def check_score(self, name: str) -> str:
        """``name``, if items can be selected by it; else RunError lists the scores of the run."""
        if name in self.meta["scores"]:
            return name
        choice = f"choose from {', '.join(self.meta['scores'])}"
        if name in self.columns:
            raise RunError(f"items are selected by a score, and {name} is an error of one: {choice}")
        raise RunError(f"{self.path} has no score {name!r}; {choice}")

    def spans(self, name: str) -> Iterator[tuple[npt.NDArray[np.int64], Values]]:
        """Yield (ids, values) of each committed span, in order: a whole column without N values in memory."""
        for record, values in zip(self._records, self._journal.read_each(self._records, name), strict=True):
            yield np.arange(record.span.start, record.span.stop), values

    def values(self, name: str, ids: npt.NDArray[np.int64]) -> Values:
        """A column, or "prediction", at ``ids``, in their order; reads the spans concerned only."""
        return self._journal.gather(self._by_span, name, ids)

    def part(self, name: str, start: int, stop: int) -> Values:
        """A stored row at the items start..stop-1; what is not committed reads "not scored"."""
        return self.values(name, np.arange(start, stop))

    @cached_property
    def _by_span(self) -> dict[int, Record]:
        return {record.span.index: record for record in self._records}

    def _values(self, name: str) -> Values:
        values = self._journal.empty(name, self.n)
        for record, part in zip(self._records, self._journal.read_each(self._records, name), strict=True):
            values[record.span.start : record.span.stop] = part
        return values
