"""A second scoring of a few items, for methods that need every pass of theirs under the same weights.

The scores of a run are usually from masks of each item's own; joint entropies mean nothing between such. Here pass t has one mask for
all items, and the probabilities of all passes are kept in a run on a local disk, so that another selection need not make them again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ...errors import RunError
from ...likelihoods import ok_outputs, probabilities
from ...masks import philox4x32
from ...montecarlo.ops.draws import DRAW_OPS
from ...progress import Progress
from ..scoring.normalize import own_scorer
from ..stored import StoredScores
from .gather import gathered
from .samples_file import Floats, Ints, read_samples, samples_file, write_samples

if TYPE_CHECKING:
    from ...pool import Pool
    from ...scorer.scorer import Scorer

BYTES = 1 << 30  # of the probabilities of the candidates that are chosen from by default, at most
TARGETS = 100  # drawn from the pool by default, as many as Bickford Smith et al. take
_FIRST = 8  # items whose outputs tell the number of classes
_STEP_BYTES = 64 << 20  # of the outputs of a step
_STREAM = 0xFFFFFFFE  # last counter word of what draws items; see masks
_SETTINGS = ("passes", "seed", "masks", "likelihood", "input", "precision", "weight_dropout", "dtype", "normalize")


class SecondScoring:
    """Makes and keeps samples of items of the pool of a run, by the model that scored it.

    Args:
        run: whose settings are used, except that items share their masks.
        pool: its pool.
        scorer: has the model, on the device to use.
        progress: called as progress(items done, items).

    Raises:
        RunError: the model has no distribution over classes.
    """

    def __init__(self, run: StoredScores, pool: Pool, scorer: Scorer, progress: Progress | None = None) -> None:
        self._run, self._pool = run, pool
        self._scorer = with_shared_masks(run, own_scorer(scorer, pool))
        self._progress = progress or (lambda _done, _n: None)
        if run.meta["likelihood"] not in ("categorical", "bernoulli"):
            raise RunError(
                f"joint selection needs classes, and {run.path} has likelihood {run.meta['likelihood']!r}: choose another diversity"
            )

    def samples(
        self, ids: Ints, role: str = "candidates", pool: Pool | None = None, least: int | None = None
    ) -> Floats:
        """Probabilities (n, T, C) of the items, in the order of ids; those that are kept are read, the others made.

        Args:
            ids: (n,) int64, n >= 1, each once.
            role: part of the name of the file that keeps them.
            pool: has the items; default: that of the run.
            least: take no more of the first items than BYTES hold, but at least so many; None: all.
        """
        pool = pool or self._pool
        # Not in a store: 1 GiB takes longer to send and fetch than one request may.
        file = samples_file(self._run.path, role) if isinstance(self._run.path, Path) else None
        key = self._key(pool)
        kept = None if file is None else read_samples(file, key)
        if least is not None:
            some = np.sort(ids[:_FIRST])
            one = (self._samples(pool.take(some), some) if kept is None else kept[1])[0]
            ids = ids[: max(least, BYTES // one.nbytes)]
        missing = np.sort(ids) if kept is None else np.setdiff1d(ids, kept[0])
        if len(missing):
            made = missing, self._make(pool, missing)
            kept = made if kept is None else merged(kept, made, ids)
            if file is not None:
                write_samples(file, key, *kept)
        assert kept is not None
        return kept[1][np.searchsorted(kept[0], ids)]

    def _make(self, pool: Pool, ids: Ints) -> Floats:
        done = 0
        self._progress(0, len(ids))

        def compute(items: Any, some: Ints) -> Floats:
            nonlocal done
            p_nTC = self._samples(items, some)
            done += len(some)
            self._progress(done, len(ids))
            return p_nTC

        return gathered(pool, ids, self._run.meta["block_items"], compute)

    def targets(self, given: Any, seed: int) -> Floats:
        """Probabilities (J, T, C) of target items.

        Args:
            given: their ids in the pool of the run; another pool, of whose items all are targets; a number of items to draw from the
                pool of the run; None: TARGETS.
            seed: of the draw.

        Raises:
            RunError: there are none, or an id is outside the pool.
        """
        from ...pool import Pool

        pool, ids = self._pool, np.empty(0, np.int64)
        if isinstance(given, Pool):
            pool, ids = given, np.arange(given.n)
        elif given is None or isinstance(given, int):
            ids = drawn_items(pool, TARGETS if given is None else given, seed)
        else:
            ids = np.unique(np.asarray(given, np.int64))
        if not len(ids) or ids[0] < 0 or ids[-1] >= pool.n:
            raise RunError(f"targets must be ids of {pool.path}, 0..{pool.n - 1}, at least one; got {len(ids)} of them")
        return self.samples(ids, "targets", pool)

    def _key(self, pool: Pool) -> dict[str, Any]:
        described = self._scorer.describe()
        return {
            "model": described["model"]["fingerprint"],
            "code": described["model"]["code"],
            **{name: described[name] for name in _SETTINGS},
            "sites": _sites_of(self._run),
            "pool": pool.fingerprint,
        }

    def _samples(self, items: Any, ids: Ints) -> Floats:
        """(n, T, C) of one block, a few items at a time: their number is known after the first."""
        parts, at, step = list[Floats](), 0, _FIRST
        while at < len(ids):
            outputs_TBC = self._scorer.samples(items[at : at + step], ids[at : at + step])
            p_nTC = class_probabilities(outputs_TBC, self._scorer.likelihood, self._scorer.input)
            parts.append(p_nTC.transpose(0, 1).cpu().numpy())
            at, step = at + step, max(1, _STEP_BYTES // parts[0][0].nbytes)
        return np.concatenate(parts)


def merged(kept: tuple[Ints, Floats], made: tuple[Ints, Floats], ids: Ints) -> tuple[Ints, Floats]:
    """Those kept samples that are of the ids, and those that were made, by ascending id."""
    wanted = np.isin(kept[0], ids)
    all_ids = np.concatenate([kept[0][wanted], made[0]])
    order = np.argsort(all_ids)
    return all_ids[order], np.concatenate([kept[1][wanted], made[1]])[order]


def with_shared_masks(run: StoredScores, scorer: Scorer) -> Scorer:
    """A copy of a scorer with the settings of a run, but masks that all items share."""
    meta, own = run.meta, scorer.copy(passes=run.meta["passes"], errors=False)
    own.seed, own.likelihood, own.input = meta["seed"], meta["likelihood"], meta["input"]
    own.execution = dataclasses.replace(own.execution, dtype=meta["precision"], compile=False)
    active = [site for site in meta["sites"] if site["active"]]
    drawn = {op.name for op in DRAW_OPS}
    own.dropout = dataclasses.replace(
        own.dropout,
        sites=None if len(active) == len(meta["sites"]) else [site["index"] for site in active],
        p={site["index"]: site["p"] for site in active if site["p"] is not None and site["kind"] not in drawn},
        weights=meta["weight_dropout"],
        masks="shared",
    )
    return own


def class_probabilities(outputs_TBC: torch.Tensor, likelihood: str, input: str) -> torch.Tensor:
    """(T, B, C) float32 probabilities of the classes of every pass, NaN where an output is no distribution.

    One label is two classes: without and with it.

    Raises:
        RunError: outputs are dense, or of several labels.
    """
    labels = outputs_TBC.shape[2]
    if outputs_TBC.ndim != 3 or (likelihood == "bernoulli" and labels > 1):
        what = f"{labels} labels" if outputs_TBC.ndim == 3 else "pixels"
        raise RunError(
            f"joint selection needs one class for each item, and the model has {what} of outputs {tuple(outputs_TBC.shape)}: choose "
            "another diversity"
        )
    p_TBC = probabilities(outputs_TBC.float(), likelihood, input)
    p_TBC[:, ~ok_outputs(outputs_TBC, likelihood, input)] = torch.nan
    return p_TBC if likelihood == "categorical" else torch.cat([1 - p_TBC, p_TBC], 2)


def drawn_items(pool: Pool, n: int, seed: int) -> Ints:
    """Draw n different items of a pool, none excluded, or all if there are fewer: ascending ids, a function of the seed."""
    excluded = pool.column("excluded")
    if 2 * n >= pool.n:  # those whose random numbers are lowest
        left = np.flatnonzero(~excluded[0 : pool.n])
        return np.sort(left[np.argsort(_random(seed, 0, pool.n)[left], kind="stable")[:n]])
    found, at = set[int](), 0
    while len(found) < n and at < 100 * n:
        for id in (_random(seed, at, n) * pool.n).astype(np.int64).tolist():
            if len(found) < n and not excluded[id : id + 1][0]:
                found.add(id)
        at += n
    return np.array(sorted(found), np.int64)


def _random(seed: int, first: int, n: int) -> npt.NDArray[np.float64]:
    """The uniform numbers first, first + 1, ... of a sequence, (n,) in [0, 1)."""
    counter_n4 = np.zeros((n, 4), np.uint32)
    counter_n4[:, 0] = np.arange(first, first + n)
    counter_n4[:, 3] = _STREAM
    words_n4 = philox4x32(counter_n4, seed).astype(np.uint64)
    return ((words_n4[:, 0] << np.uint64(21)) | (words_n4[:, 1] >> np.uint64(11))) * 2.0**-53


def _sites_of(run: StoredScores) -> list[list[Any]]:
    return [[site["name"], site["kind"], site["p"], site["active"]] for site in run.meta["sites"]]
