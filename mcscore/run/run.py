"""Run: a run directory, to read, to select from, to export."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..store.files import Where
from ..store.place import any_path
from .export import export, whole_table
from .journal import Journal, Record, SpanDamage, told
from .selecting.kept import KeptSelection, listed
from .selecting.select import choose
from .stored import StoredScores

if TYPE_CHECKING:
    import pyarrow

    from ..pool import Pool
    from ..progress import Progress
    from ..scorer.scorer import Scorer
    from ..selection import Limits, Selection
    from .scoring.workers import Staff


class Run(StoredScores):
    """A run, in a directory or at a URL: scores of the items of a pool, as far as they are committed.

    What is not committed, labeled, excluded, or without a finite score reads NaN (predictions of classes: -1). Values
    are checked against their checksums whenever they are read: RunError names a damaged file.

    Attributes:
        damaged: files and spans whose record does not hold; these spans count as not committed.

    Example:
        >>> import tempfile, numpy, torch
        >>> from mcscore import Pool, Run, Scorer, score_pool
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pool = Pool.create(f"{folder}/pool", numpy.zeros((5, 4), numpy.float32))
        ...     _ = score_pool(pool, Scorer(model, passes=10), f"{folder}/run")
        ...     run = Run.open(f"{folder}/run")
        ...     run.done, run.meta["passes"], run.prediction.dtype.name
        (5, 10, 'int32')
    """

    def __init__(
        self,
        journal: Journal,
        committed: Sequence[Record],
        pool: Pool | None = None,
        scorer: Scorer | None = None,
        damaged: Sequence[SpanDamage] = (),
    ) -> None:
        """Use ``Run.open``, or what ``score_pool`` returns: that one remembers pool and scorer."""
        super().__init__(journal, committed)
        self.damaged = tuple(damaged)
        self._pool, self._scorer = pool, scorer

    @staticmethod
    def open(path: Where) -> Run:
        """Open the run in a directory or at a URL, complete or not; a warning names records that are damaged.

        Raises:
            RunError: there is no run, or its run.json, or the metadata of its scores, is damaged.
        """
        journal = Journal.open(any_path(path).absolute())
        committed, damaged = journal.survey()
        if damaged:
            warnings.warn(
                f"{path}: {told(damaged)}. These spans count as not done; scoring into the run again repairs it",
                stacklevel=2,
            )
        return Run(journal, committed, damaged=damaged)

    @property
    def passes_spent(self) -> int:
        """Passes of all items, over both stages if there are two."""
        first = self.screen
        return self.scored * self.meta["passes"] + (first.scored * first.meta["passes"] if first is not None else 0)

    @property
    def nonfinite_ids(self) -> npt.NDArray[np.int64]:
        """Items the model gave NaN or infinity for, in either stage, ascending."""
        own = super().nonfinite_ids
        return own if self.screen is None else np.union1d(self.screen.nonfinite_ids, own)

    @property
    def unreadable_ids(self) -> npt.NDArray[np.int64]:
        """Items that were skipped because the pool could not be read there, in either stage, ascending."""
        own = super().unreadable_ids
        return own if self.screen is None else np.union1d(self.screen.unreadable_ids, own)

    def select(
        self,
        k: int,
        by: str | None = None,
        diversity: str = "radius",
        candidates: int | None = None,
        radius: float | None = None,
        scorer: Scorer | None = None,
        *,
        beta: float | None = None,
        seed: int = 0,
        limits: Limits | None = None,
        targets: npt.ArrayLike | Pool | int | None = None,
        progress: Progress | None = None,
        pool: Pool | None = None,
        partial: bool = False,
        accept_edited_code: bool = False,
        map: str = "pca",
        workers: int | Staff | None = None,
    ) -> Selection:
        """Choose k items that are worth a label, and keep them in the run as ``selection-0001.parquet`` or the next number.

        Items that are labeled or excluded by now are left out, and with a radius those near labeled ones are too.
        No selection is ever replaced; what the newest one has already is not written again. The file has columns id, rank, score, key
        (if the pool has keys), one per score of the run, prediction, and probabilities if the method had them; how they
        were chosen, and all that was asked for, is in its metadata under "mcscore". ``selections`` lists them.

        Args:
            k: how many.
            by: a score of the run; default its first.
            diversity: a method of ``mcscore.selection.DIVERSITY``.
            candidates: how many of the best are chosen from; default 10 k; for a ranked method (power, softmax, softrank) all items; for a
                joint method (batchbald, epig) at least 10,000, as far as their probabilities fit 1 GiB.
            radius: no two chosen items are closer; default as large as k items allow.
            scorer: computes the embeddings, if the method needs them; must hold the model that scored. Default: what
                ``score_pool`` was given.
            beta: how much a method that draws prefers high scores: the larger, the more; default by method.
            seed: of the random numbers of a method that draws.
            limits: what the selection must respect: a quota for each class or group, a budget, ids to leave out, a distance to labeled
                items. See ``mcscore.selection.Limits``.
            targets: of diversity epig, the items whose predictions matter: ids; another pool; a number of items to draw from this one;
                default: 100 drawn.
            progress: called as progress(items done, items) where a joint method scores the candidates again. Their probabilities are
                kept in ``samples-candidates.bin`` of a run on a local disk, so that the next selection finds them.
            pool: the pool, if it is not at its recorded place; default: what ``score_pool`` was given.
            partial: choose from an incomplete run.
            accept_edited_code: compute embeddings though the model's or the transform's code was edited since the run.
            workers: compute embeddings with processes beside this one, as ``score_pool`` does.
            map: how the report's map of the embeddings is laid out: "pca", or "umap" if umap-learn is installed.

        Returns:
            The chosen items, best first, and the file.

        Raises:
            RunError: the run is incomplete; no such score or method; k is less than 1 or more than what is left; pool or
                scorer are missing or not those of the run; the file cannot be written.
            ValueError: fewer than k candidates remain at the radius given; a limit cannot be met, with the number by which; the
                method has no such parameter.

        Example:
            >>> import tempfile, numpy, torch
            >>> from mcscore import Pool, Scorer, score_pool
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 3))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     pool = Pool.create(f"{folder}/pool", numpy.random.default_rng(0).random((20, 4), numpy.float32))
            ...     run = score_pool(pool, Scorer(model, passes=10, scores=("bald",)), f"{folder}/run")
            ...     chosen = run.select(3, diversity="none")
            ...     bool(chosen.scores[0] == run.scores("bald").max()), chosen.file.name
            (True, 'selection-0001.parquet')
        """
        return choose(
            self,
            k,
            by=self.check_score(by if by is not None else self.meta["scores"][0]),
            diversity=diversity,
            candidates=candidates,
            radius=radius,
            beta=beta,
            seed=seed,
            limits=limits,
            targets=targets,
            progress=progress,
            scorer=scorer or self._scorer,
            pool=pool or self._pool,
            partial=partial,
            accept_edited_code=accept_edited_code,
            map=map,
            workers=workers,
        )

    def selections(self, pool: Pool | None = None) -> list[KeptSelection]:
        """All selections that were made from the run, the oldest first: number, how each was chosen, how many are labeled by now.

        Args:
            pool: the pool, if it is not at its recorded place; default: what ``score_pool`` was given. Where it is gone, how many
                are labeled is None.

        Raises:
            RunError: the pool is not the one that was scored.
        """
        return listed(self, pool or self._pool)

    def export(
        self,
        format: str,
        out: str | os.PathLike[str] | None = None,
        *,
        selection: Where | int | None = None,
        by: str | None = None,
        prefix: str = "",
        images: str | os.PathLike[str] | None = None,
        texts: dict[int, str] | None = None,
        pool: Pool | None = None,
        partial: bool = False,
    ) -> Path:
        """Write the scores of all items, or a selection, for other tools; the file is whole or not there.

        Memory does not grow with the number of items.

        Args:
            format: a name in ``mcscore.run.export.formats.FORMATS``. parquet, csv and jsonl have a row per item: id, rank
                (of a selection), key (if the pool has keys), scores, errors (if the run has them), prediction; nothing where an item has no
                score.
                In csv, a key that a spreadsheet would run as a formula has an apostrophe before it (``mcscore.cells``);
                ``label_from`` reads the key without it.
                label-studio: tasks to import, and beside them (.xml) the labeling configuration. Label Studio takes the lowest
                prediction score first, so that is 1 / (1 + score), a confidence: the most informative items come first.
                fiftyone: labels.json of a FiftyOneImageClassificationDataset. coco: a list of images without annotations. cvat:
                annotations, the predictions as tags; cvat-manifest: the list of the images of a task. These name pictures, and leave
                out items without a score.
            out: the file, on a local disk; default: export-<selection or all> in the run directory.
            selection: a selection of this run: its number, its file, or "latest"; default: all items.
            by: the score that label-studio gets; default: the selection's, else the first of the run.
            prefix: put before a key, or the name of a picture that is written, to make its address for label-studio ("s3://bucket/");
                before a key to make its path for the others ("images/"), where the file must be.
            images: a directory, to which the pictures of the items are written: as they came where the pool keeps the files, else their
                pixels as PNG. What is there already stays.
            texts: id -> text to show of an item in label-studio, instead of a picture.
            pool: the pool, if it is not at its recorded place; default: what ``score_pool`` was given.
            partial: export an incomplete run.

        Returns:
            The file.

        Raises:
            RunError: no such format, score or selection; the run is incomplete or damaged; the pool is missing, is not the
                one that was scored, or has no keys where these are needed; a picture is not where it should be; a file cannot be
                written.
        """
        return export(
            self,
            format,
            out,
            selection=selection,
            by=by,
            prefix=prefix,
            images=images,
            texts=texts,
            pool=pool or self._pool,
            partial=partial,
        )

    def table(self, *, pool: Pool | None = None, partial: bool = False) -> pyarrow.Table:
        """The scores of all items in one table in memory; ``export`` writes the same, streamed.

        Args:
            pool: the pool, if it is not at its recorded place; default: what ``score_pool`` was given.
            partial: of an incomplete run, what is committed.

        Returns:
            Columns id, key (if the pool has keys), scores, errors (if the run has them), prediction; null where an item has no score.

        Raises:
            RunError: the run is incomplete or damaged; ``pool`` is not the one that was scored.
        """
        return whole_table(self, pool or self._pool, partial)
