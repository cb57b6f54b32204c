"""Run: what scoring has left on disk, read back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import RunError
from .journal import Journal, Record, Values
from .schema import Meta

if TYPE_CHECKING:
    from ..pool import Pool
    from ..scorer.scorer import Scorer
    from ..selection import Selection


class Run:
    """A run directory: scores of the items of a pool, as far as they are committed.

    What is not committed, labeled, excluded, or without a finite score reads NaN (predictions of classes: -1). Values
    are checked against their checksums whenever they are read: RunError names a damaged file.
    """

    def __init__(
        self, journal: Journal, records: Sequence[Record], pool: Pool | None = None, scorer: Scorer | None = None
    ) -> None:
        """Use ``Run.open``, or what ``score_pool`` returns: that one remembers pool and scorer."""
        self.path: Path = journal.path
        self.meta: Meta = journal.meta
        self._journal, self._records = journal, tuple(records)
        self._pool, self._scorer = pool, scorer

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Run:
        """The run in a directory, complete or not. Raises RunError if there is none."""
        journal = Journal.open(Path(path))
        return Run(journal, journal.records())

    def __repr__(self) -> str:
        return (
            f"Run({str(self.path)!r}, {self.done:,} of {self.n:,} items done, scores={', '.join(self.meta['scores'])})"
        )

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
        return self.done == self.n

    @property
    def seconds(self) -> float:
        """Time spent on the committed spans, over all attempts."""
        return sum(record.seconds for record in self._records)

    @property
    def items_per_second(self) -> float:
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
        """(N,) float32, NaN where there is none. Raises RunError for a score the run does not have."""
        return self._values(self.check_score(name))

    def check_score(self, name: str) -> str:
        """``name``; RunError lists the scores of the run if it is not one of them."""
        if name not in self.meta["scores"]:
            raise RunError(f"{self.path} has no score {name!r}; it has {', '.join(self.meta['scores'])}")
        return name

    def spans(self, name: str) -> Iterator[tuple[npt.NDArray[np.int64], Values]]:
        """(ids, values) of each committed span, in order: a whole score without N values in memory."""
        for record in self._records:
            yield np.arange(record.span.start, record.span.stop), self._journal.read(record, name)

    def values(self, name: str, ids: npt.NDArray[np.int64]) -> Values:
        """A score, or "prediction", at ``ids``, in their order; reads the spans concerned only."""
        return self._journal.gather(self._records, name, ids)

    def select(
        self,
        k: int,
        by: str | None = None,
        diversity: str = "radius",
        candidates: int | None = None,
        radius: float | None = None,
        scorer: Scorer | None = None,
        *,
        pool: Pool | None = None,
        partial: bool = False,
    ) -> Selection:
        """Choose k items that are worth a label, and write them to ``selection-<by>-<k>.parquet`` in the run directory.

        by: a score of the run; default its first. diversity: a method of ``mcscore.selection.DIVERSITY``; ``radius`` is
        its radius, default as large as k items allow. candidates: the best so many are chosen from; default 10 k.
        scorer: computes the embeddings, if the method needs them; must hold the model that scored. pool: where it is not
        at its recorded place. Both default to what ``score_pool`` was given. partial: choose from an incomplete run.

        Items that are labeled or excluded by now are left out, and with a radius those near labeled ones are too.
        The file has columns id, rank, score, key (if the pool has keys), one per score of the run, prediction; how they
        were chosen is in its metadata under "mcscore".

        Raises:
            RunError: the run is incomplete; no such score or method; k is less than 1 or more than what is left; pool or
                scorer missing, or others than those of the run; the file cannot be written.
            ValueError: fewer than k candidates remain at the radius given.
        """
        from .select import choose

        return choose(
            self,
            k,
            by=self.check_score(by if by is not None else self.meta["scores"][0]),
            diversity=diversity,
            candidates=candidates,
            radius=radius,
            scorer=scorer or self._scorer,
            pool=pool or self._pool,
            partial=partial,
        )

    def export(
        self,
        format: str,
        out: str | os.PathLike[str] | None = None,
        *,
        selection: str | os.PathLike[str] | None = None,
        by: str | None = None,
        prefix: str = "",
        pool: Pool | None = None,
        partial: bool = False,
    ) -> Path:
        """Write the scores of all items, or a selection, for other tools; returns the file, which is whole or not there.

        format: a name in ``mcscore.run.export.formats.FORMATS``. parquet, csv and jsonl have a row per item: id, rank (of a
            selection), key (if the pool has keys), the scores, prediction; nothing where an item has no score.
            label-studio: tasks to import. It takes the lowest prediction score first, so that is 1 / (1 + score), a
            confidence: the most informative items come first. fiftyone: labels.json of a FiftyOneImageClassificationDataset.
            Both name images by key, so the pool must have keys, and leave out items without a score.
        out: default: export-<selection or all> in the run directory. Memory does not grow with the number of items.
        selection: a selection file of this run, or "latest"; default: all items.
        by: the score that label-studio gets; default the selection's, else the first of the run.
        prefix: what makes an address of a key for label-studio ("s3://bucket/"), or a path for fiftyone ("images/").
        pool: where it is not at its recorded place. partial: export an incomplete run.

        Raises:
            RunError: no such format, score or selection; the run is incomplete or damaged; the pool is missing, another one
                or without keys where these are needed; the file cannot be written.
        """
        from .export import export

        return export(
            self,
            format,
            out,
            selection=selection,
            by=by,
            prefix=prefix,
            pool=pool or self._pool,
            partial=partial,
        )

    def _values(self, name: str) -> Values:
        values = self._journal.empty(name, self.n)
        for record in self._records:
            values[record.span.start : record.span.stop] = self._journal.read(record, name)
        return values
