"""Scoring in this process: block by block, span by span.

On a device that works beside the host a block is launched before the scores of the one before are taken: the device scores
on while the host waits for those and reads, and while whoever takes a span commits it. An error keeps its place in the order
of blocks.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..identity.hardware import hardware_of
from ..schema import Hardware, Settings
from ..spans import Span, ranges_of
from .normalize import own_scorer
from .prefetch import Block, prefetch_blocks, readable
from .sample import sample_of
from .task import Admission, First, LiveTasks, Moved, Reading, SpanError, SpanScores, SpanTask, Stop
from .transfer import CudaTransfer, Scores, Transfer

if TYPE_CHECKING:
    from ...pool import Pool
    from ...scorer.checks import Finding
    from ...scorer.scorer import Scorer
    from ..journal import Values

Dtypes = Mapping[str, np.dtype[Any]]
Ids = npt.NDArray[np.int64]


class Here:
    """The engine that is a scorer of this process. It uses a copy of the scorer that normalizes as the pool says."""

    def __init__(self, pool: Pool, scorer: Scorer) -> None:
        self.pool, self.scorer = pool, own_scorer(scorer, pool)
        self.findings: tuple[Finding, ...] = ()
        self._settings: Settings | None = None

    @property
    def device(self) -> str:
        """Name of the device of the model."""
        return self.scorer.device

    @property
    def size(self) -> int:
        """One span at a time."""
        return 1

    def staff(self) -> list[dict[str, Any]]:
        """No workers."""
        return []

    def copy(self, passes: int | None = None, errors: bool | None = None) -> Here:
        """The same model and settings but those given, not prepared."""
        return Here(self.pool, self.scorer.copy(passes=passes, errors=errors))

    def describe(self) -> Settings:
        """The settings of the scorer. It reads the whole model for its fingerprint."""
        self._settings = Settings.of_scorer(self.scorer.describe())
        return self._settings

    def hardware(self, known: Sequence[Hardware] = ()) -> Hardware:
        """What scores, be it known or not."""
        return hardware_of(self.scorer.device, (self._settings or self.describe()).precision)

    def prepare(self, first: First) -> bool:
        """Show the scorer its first items; False if none of them can be read."""
        stop = first.start + len(first.wanted)
        batch = next(self.pool.blocks([(first.start, stop)], 0, first.on_bad_chunk))
        keep = readable(batch, first.wanted)
        if keep.any():
            self.scorer.prepare(batch.items[keep], batch.ids[keep], plan=first.plan)
            if first.check:
                self.findings = self.scorer.look(sample_of(self.pool))
        return bool(keep.any())

    def score(
        self, tasks: Iterable[SpanTask], reading: Reading, admission: Admission, stop: Stop, moved: Moved
    ) -> Iterator[SpanScores]:
        """Score tasks in order. Whoever prepared the run with this engine has admitted it."""
        return self.spans(tasks, reading, stop, moved)

    def spans(
        self, tasks: Iterable[SpanTask] | LiveTasks, reading: Reading, stop: Stop, moved: Moved
    ) -> Iterator[SpanScores]:
        """Score tasks in order, also such as come meanwhile."""
        transfer = CudaTransfer(self.device) if self.device.startswith("cuda") else Transfer()
        blocks = prefetch_blocks(
            self.pool, tasks, reading.block_items, reading.on_bad_chunk, transfer, fill=reading.fill
        )
        collected: _Collected | None = None
        begin = time.perf_counter()
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(blocks))
            if isinstance(tasks, LiveTasks):
                stack.callback(tasks.end)  # before the thread that reads is waited for: it may wait for a task
            for flying in late(_launched(blocks, self.scorer, reading.rows, transfer, stop), transfer.behind):
                block = flying[0].block
                assert block.task is not None
                collected = collected or _Collected(block.task.span, reading.rows)
                collected.unreadable.append(block.unreadable)
                if len(block.ids):
                    collected.add_scores(block.ids, _scores_of(flying))
                if block.last:
                    end = time.perf_counter()
                    # A commit counts to the next span, which a device scores meanwhile.
                    scores, collected, begin = collected.done(end - begin, flying[0].plan), None, end
                    yield scores
                else:
                    moved(block.task.span, block.stop)
                del flying, block  # the memory of the block is used again


class _Collected:
    """The values of a span, "not scored" at first, filled block by block."""

    def __init__(self, span: Span, rows: Dtypes) -> None:
        self.span = span
        self.values: dict[str, Values] = {name: empty(dtype, span.n) for name, dtype in rows.items()}
        self.unreadable: list[Ids] = []
        self._scored = 0
        self._nonfinite: list[Ids] = []

    def add_scores(self, ids: Ids, columns: Mapping[str, Values]) -> None:
        """Take in what the model gave for ``ids``."""
        finite = np.all([np.isfinite(column) for column in columns.values()], axis=0)
        self._scored += len(ids)
        self._nonfinite.append(ids[~finite])
        for name, column in columns.items():
            # Where one score is not finite none is kept: "not scored" has one meaning and one bit pattern.
            self.values[name][ids[finite] - self.span.start] = column[finite]

    def done(self, seconds: float, plan: Mapping[str, Any]) -> SpanScores:
        return SpanScores(
            self.span,
            self.values,
            self._scored,
            tuple(np.concatenate([*self._nonfinite, _NONE]).tolist()),
            tuple(ranges_of(np.concatenate([*self.unreadable, _NONE]))),
            seconds,
            plan,
        )


_NONE = np.empty(0, np.int64)


def empty(dtype: np.dtype[Any], n: int) -> Values:
    """N values that mean "not scored": NaN, or -1 for classes."""
    return np.full(n, -1 if dtype.kind == "i" else np.nan, dtype)


@dataclass(frozen=True)
class Launched:
    """A block that was given to the scorer.

    Attributes:
        block: the block.
        scores: on their way; of none of the items if ``failure`` is set.
        plan: of the scorer when the last block of a span was launched: the next one may halve it.
        failure: what the scorer raised.
    """

    block: Block
    scores: Scores
    plan: Mapping[str, Any] = field(default_factory=dict)
    failure: Exception | None = None


def _launched(
    blocks: Iterator[Block], scorer: Scorer, dtypes: Dtypes, transfer: Transfer, stop: Stop
) -> Iterator[Launched]:
    """Launch block by block, until a stop is asked for or one fails."""
    while not stop() and (block := next(blocks, None)) is not None:
        scores = Scores({}, lambda: None)
        try:
            if len(block.ids):
                scores = _launch(scorer, block, dtypes, transfer)
        except Exception as error:
            yield Launched(block, scores, failure=error)
            return
        yield Launched(block, scores, scorer.recorded_plan if block.last else {})


def _launch(scorer: Scorer, block: Block, dtypes: Dtypes, transfer: Transfer) -> Scores:
    """Give a block to the scorer. ValueError if what it returns has another shape or dtype."""
    items, ids = block.inputs
    given = scorer(items, ids)
    scores = transfer.download({name: given[name] for name in dtypes})
    for name, column in scores.columns.items():
        if column.shape != block.ids.shape or column.dtype != dtypes[name]:
            raise ValueError(
                f"the scorer gave {name} as {column.dtype} {column.shape}, not {dtypes[name]} {block.ids.shape}"
            )
    return scores


def late(launched: Iterator[Launched], behind: int) -> Iterator[tuple[Launched, ...]]:
    """Yield each element once ``behind`` more are launched, together with those; then those that are left.

    A block of no task says that the next one may be long in coming: what waits is yielded first. An exception comes at its place in the
    order: after the elements before it.
    """
    waiting: deque[Launched] = deque()
    try:
        for each in launched:
            if each.block.task is None:
                yield from _rest(waiting)
                continue
            waiting.append(each)
            if len(waiting) > behind:
                yield (waiting.popleft(), *waiting)
    except Exception:
        yield from _rest(waiting)
        raise
    yield from _rest(waiting)


def _rest(waiting: deque[Launched]) -> Iterator[tuple[Launched, ...]]:
    while waiting:
        yield (waiting.popleft(), *waiting)


def _scores_of(flying: tuple[Launched, ...]) -> dict[str, Values]:
    """Wait for the scores of the first block in flight. SpanError if it, or one launched since, could not be scored."""
    first, last = flying[0].block, [each.block for each in flying if len(each.block.ids)][-1]
    try:
        if flying[0].failure is not None:
            raise flying[0].failure
        flying[0].scores.wait()
        return flying[0].scores.columns
    except Exception as error:
        # A device reports an error late, and then for all that is queued: any block in flight may be the one.
        spans = dict.fromkeys(str(block.task.span) for block in (first, last) if block.task is not None)
        where = f"items {first.ids[0]}..{last.ids[-1]} in {' or '.join(spans)}"
        raise SpanError(where, f"{type(error).__name__}: {error}") from error
