"""One cycle: the rounds of one method and one seed."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from .. import atomic
from ..errors import RunError
from ..fields import JSON
from ..methods import parameters_of
from ..paths import is_directory, is_file, local_path
from ..pool import Pool
from ..pool.borrow import borrow
from ..run import Run, score_pool
from ..run.comparing import agreement
from ..run.schema import read_header
from ..scorer.scorer import Scorer
from ..store.lock import locked
from .state import POOL, Ids, Round, State
from .stop import Stop

Fit = Callable[[Pool, Ids, int], nn.Module]
Evaluate = Callable[[nn.Module], float | Mapping[str, float]]
Oracle = Callable[[Ids], npt.ArrayLike]
Select = Mapping[str, Any] | Callable[[Run, int, int], npt.ArrayLike] | Literal["random"]
MakeScorer = Callable[[nn.Module, int], Scorer]
Tell = Callable[[str], None]


def cycle(
    pool: Pool,
    *,
    fit: Fit,
    evaluate: Evaluate,
    oracle: Oracle,
    rounds: int,
    k: int,
    out: str | Path,
    select: Select = {"by": "bald"},  # noqa: B006 (only read)
    scorer: Mapping[str, Any] | MakeScorer = {},  # noqa: B006
    scoring: Mapping[str, Any] = {},
    start: npt.ArrayLike | None = None,
    seed: int = 0,
    stop: Stop = Stop(),  # noqa: B008 (frozen)
    progress: Tell = lambda _stage: None,
) -> Iterator[Round]:
    """Run up to ``rounds`` rounds that acquire ``k`` labels each, and train once more at the end.

    Each round is durable when it is yielded. Killed at any moment, the same call goes on, and ends in what one that was never killed ends
    in, provided that ``fit`` and ``evaluate`` depend on their arguments alone. Rounds that are done are yielded again first. The labels
    stand in ``out/pool``, a pool with the items of ``pool``, which itself is not changed.

    Args:
        pool: items, on a local disk.
        fit: (pool, labeled ids, seed) -> a model trained from scratch.
        evaluate: model -> its accuracy on held-out data, or several measures by name, the one that counts first.
        oracle: ids -> the true labels.
        rounds: most rounds that acquire labels.
        k: labels per round.
        out: directory of the cycle.
        select: arguments of ``Run.select`` beside k, such as ``dict(by="bald", diversity="power", beta=4)``; or a function
            (run, k, seed) -> ids; or "random", for the baseline, which scores nothing.
        scorer: arguments of ``Scorer`` beside the model, such as ``dict(passes=100, dropout=Dropout(masks="shared"))``; or a function
            (model, seed) -> Scorer.
        scoring: arguments of ``score_pool`` beside pool, scorer and directory, such as ``dict(screen=Screen(top=100))``.
        start: ids that are labeled at first, by the oracle, and no others; default: those that are labeled in ``pool``.
        seed: seed of training, masks, what a method draws, and the random baseline.
        stop: what ends the cycle earlier.
        progress: called with a sentence at the start of each stage.

    Returns:
        The rounds, one more than acquire labels.

    Raises:
        RunError: ``out`` is something else, or a cycle that was started with other arguments (named); another process is at work
            there; the oracle gave another number of labels, the function another number of items.
        ValueError, TypeError: an argument is out of its range, or no argument of ``Run.select``.

    >>> import tempfile
    >>> items = np.random.default_rng(0).random((40, 4), np.float32)
    >>> labels = (items.sum(1) > 2).astype(np.int32)
    >>> def fit(pool, labeled, seed):  # a real one trains the model on pool.take(labeled), pool.labels[labeled]
    ...     return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pool = Pool.create(f"{folder}/pool", items)
    ...     turns = cycle(pool, fit=fit, evaluate=lambda model: 0.5, oracle=lambda ids: labels[ids], start=[0, 1],
    ...                   rounds=2, k=5, out=f"{folder}/cycle", scorer=dict(passes=10))
    ...     [(turn.labels, len(turn.chosen)) for turn in turns]
    [(2, 5), (7, 5), (12, 0)]
    """
    if rounds < 0 or k < 1:
        raise ValueError(f"rounds must be at least 0 and k at least 1, got {rounds} and {k}")
    if isinstance(select, str) and select != "random":
        raise ValueError(f"select is 'random', arguments of Run.select or a function, not {select!r}")
    if isinstance(select, Mapping):
        _require_arguments("select", Run.select, (None, k), select)
        parameters_of(select.get("diversity", "radius"), {})
    if isinstance(scorer, Mapping):
        _require_arguments("scorer", Scorer, (None,), scorer)
    _require_arguments("scoring", score_pool, (None, None, None), scoring)
    if select == "random" and stop.stable is not None:
        raise ValueError("stop.stable compares the predictions of runs, and select='random' makes none")
    first = None if start is None else np.unique(np.asarray(start, np.int64))
    own = _Cycle(pool, fit, evaluate, oracle, rounds, k, select, scorer, scoring, first, seed, stop, progress)
    return own.run(local_path(out, "a cycle", RunError).absolute())


@dataclass(frozen=True)
class _Cycle:
    """The arguments of ``cycle``."""

    pool: Pool
    fit: Fit
    evaluate: Evaluate
    oracle: Oracle
    rounds: int
    k: int
    select: Select
    scorer: Mapping[str, Any] | MakeScorer
    scoring: Mapping[str, Any]
    start: Ids | None
    seed: int
    stop: Stop
    tell: Tell

    def run(self, out: Path) -> Iterator[Round]:
        atomic.create_directory(out)
        with locked(out, RunError):
            state, asked = State(out), self.asked()
            state.begin(asked)
            pool = self._own_pool(out / POOL)
            before: Round | None = None
            for index in range(self.rounds + 1):
                done = state.round(index)
                if done is None or not (len(done.chosen) or self._ends(pool, done)):
                    done = self._round(out, pool, index, before)
                    state.keep(done, asked)
                if not len(done.chosen):
                    yield done
                    return
                pool.set_labels(done.chosen, done.given)
                yield done
                before = done

    def asked(self) -> JSON:
        """What decides the results and can be compared, as JSON; functions by their names."""
        return {
            "method": method_name(self.select),
            "seed": self.seed,
            "k": self.k,
            "select": _told(self.select),
            "scorer": _told(self.scorer),
            "scoring": _told({name: value for name, value in self.scoring.items() if name not in _FREE}),
            "pool": self.pool.fingerprint,
            "start": None if self.start is None else [len(self.start), hashlib.sha256(self.start.data).hexdigest()],
        }

    def _own_pool(self, path: Path) -> Pool:
        if is_directory(path):
            return Pool.open(path)
        if self.start is None:
            return borrow(self.pool, path)
        return borrow(self.pool, path, self.start, self._labels(self.start))

    def _labels(self, ids: Ids) -> npt.NDArray[Any]:
        given = np.asarray(self.oracle(ids))
        if given.shape != ids.shape:
            raise RunError(f"the oracle was asked for {len(ids)} labels and gave an array of shape {given.shape}")
        return given

    def _ends(self, pool: Pool, done: Round) -> bool:
        """Whether a round without chosen items is the last one by the arguments of now, too."""
        stopped = self._stopped(pool, done.index, done.labels, done.accuracy)
        return bool(stopped or self.stop.after_scoring(done.agreement))

    def _stopped(self, pool: Pool, index: int, labels: int, accuracy: float) -> str:
        if reason := self.stop.before_scoring(labels, accuracy):
            return reason
        if index == self.rounds:
            return f"all {self.rounds:,} rounds are done"
        return "" if (~pool.labeled & ~pool.excluded).any() else "no item is left"

    def _round(self, out: Path, pool: Pool, index: int, before: Round | None) -> Round:
        """Train, evaluate, score and select; nothing of it counts before the caller keeps it."""
        begin = time.perf_counter()
        has = pool.labeled
        labeled, left = np.flatnonzero(has), np.flatnonzero(~has & ~pool.excluded)
        self.tell(f"round {index}: train on {len(labeled)} labels")
        model = self.fit(pool, labeled, self._seed_of(index))
        if not isinstance(model, nn.Module):
            raise TypeError(f"fit returned {type(model).__name__}; the trained model, an nn.Module, is needed")
        measures = _measures(self.evaluate(model))
        accuracy = next(iter(measures.values()))
        stopped = self._stopped(pool, index, len(labeled), accuracy)
        chosen, given, run, agree = np.empty(0, np.int64), np.empty(0, np.int32), None, None
        if not stopped:
            k = min(self.k, len(left), *([] if self.stop.labels is None else [self.stop.labels - len(labeled)]))
            if self.select == "random":
                drawn = np.random.default_rng([self.seed, index]).choice(left, size=k, replace=False)
                chosen = np.sort(drawn).astype(np.int64)
            else:
                run = self._scored(out / f"round-{index:02d}", pool, model, len(left), index)
                agree = self._agreement(before, run)
                stopped = self.stop.after_scoring(agree)
                chosen = chosen if stopped else self._chosen(run, k, index, left)
            given = self._labels(chosen) if len(chosen) else given
        where = None if run is None else Path(str(run.path))
        seconds = time.perf_counter() - begin
        return Round(index, len(labeled), accuracy, chosen, given, seconds, where, measures, agree, stopped)

    def _agreement(self, before: Round | None, run: Run) -> float | None:
        if run.meta["likelihood"] == "gaussian":
            if self.stop.stable is not None:
                raise RunError("stop.stable compares predicted classes, and the scorer predicts numbers: leave it out")
            return None
        return None if before is None or before.run is None else agreement(Run.open(before.run), run).share

    def _seed_of(self, index: int) -> int:
        return self.seed * 1000 + index

    def _scored(self, where: Path, pool: Pool, model: nn.Module, left: int, index: int) -> Run:
        scorer = self._scorer(model)
        _discard_other_model(where, scorer)
        self.tell(f"round {index}: score {left} items with {scorer.passes} passes")
        return score_pool(pool, scorer, where, **{"progress": False, **self.scoring})

    def _scorer(self, model: nn.Module) -> Scorer:
        if callable(self.scorer):
            return self.scorer(model, self.seed)
        options = dict(self.scorer)
        by = self.select.get("by") if isinstance(self.select, Mapping) else None
        numbers = options.get("likelihood") == "gaussian"
        wanted = (by or "variance",) if numbers else dict.fromkeys((by or "bald", "bald", "entropy"))
        passes = options.setdefault("passes", 100)
        return Scorer(model, **{"scores": tuple(wanted), "seed": self.seed, "errors": passes > 1, **options})

    def _chosen(self, run: Run, k: int, index: int, left: Ids) -> Ids:
        self.tell(f"round {index}: select {k} by {method_name(self.select)}")
        seed = self._seed_of(index)
        if isinstance(self.select, Mapping):
            return np.asarray(run.select(k, **{"seed": seed, **self.select}).ids)
        assert callable(self.select)
        chosen = np.asarray(self.select(run, k, seed)).astype(np.int64)
        if chosen.shape != (k,) or len(np.unique(chosen)) < k or not np.isin(chosen, left).all():
            raise RunError(
                f"{method_name(self.select)} was asked for {k} different items that are neither labeled nor excluded, and gave "
                f"{chosen.tolist()}"
            )
        return chosen


_FREE = ("progress", "on_stage", "workers", "device", "check", "span")  # arguments of score_pool that decide no score


def method_name(select: Select) -> str:
    """What a way to select is called.

    >>> method_name({"by": "bald", "diversity": "power", "beta": 4}), method_name("random")
    ('bald, power', 'random')
    """
    if isinstance(select, str):
        return select
    if isinstance(select, Mapping):
        return f"{select.get('by') or 'first score'}, {select.get('diversity', 'radius')}"
    return _told(select)


def _told(value: Any) -> Any:
    """A value as JSON, as far as it can be compared."""
    if isinstance(value, Mapping):
        return {str(name): _told(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_told(each) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _told(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)


def _require_arguments(
    what: str, function: Callable[..., Any], first: tuple[Any, ...], more: Mapping[str, Any]
) -> None:
    """Raise TypeError, which begins with ``what``, unless a function takes these arguments."""
    try:
        inspect.signature(function).bind(*first, **more)
    except TypeError as error:
        raise TypeError(f"{what}: {error}") from error


def _measures(found: float | Mapping[str, float]) -> dict[str, float]:
    measures = dict(found) if isinstance(found, Mapping) else {"accuracy": found}
    try:
        numbers = {str(name): float(value) for name, value in measures.items()}
    except (TypeError, ValueError):
        numbers = {}
    if not numbers:
        raise ValueError(f"evaluate returned no measure: a number, or at least one by name, is needed, got {found!r}")
    return numbers


def _discard_other_model(where: Path, scorer: Scorer) -> None:
    """Remove the run of a round that was killed, if training did not give the same model again."""
    atomic.discard_leftovers(where)
    if is_file(where / "run.json") and read_header(where).settings.model.fingerprint != scorer.fingerprint:
        atomic.discard_directory(where)
