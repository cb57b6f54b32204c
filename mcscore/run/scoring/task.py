"""What is asked of whoever scores spans, and what comes back: plain values, which may cross to another process or machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..schema import Hardware, Settings
from ..spans import Span

if TYPE_CHECKING:
    from ...scorer.checks import Finding
    from ..journal import Values

Flags = npt.NDArray[np.bool_]
OnBadChunk = Literal["raise", "skip"]
Stop = Callable[[], bool]
Moved = Callable[[Span, int], None]  # the items of a span up to one, not included, are scored or need not be


@dataclass(frozen=True)
class SpanTask:
    """A span, and which of its items are to be scored.

    Attributes:
        span: the items.
        wanted: (span.n,) which of them.
    """

    span: Span
    wanted: Flags


@dataclass(frozen=True)
class SpanScores:
    """What scoring a span gave.

    Attributes:
        span: the items.
        values: by row (scores, prediction) (span.n,); "not scored" for what was not wanted or has no finite score.
        scored: items that went through the model.
        nonfinite_ids: those of them without a finite score, ascending.
        unreadable: (start, stop) of wanted items that could not be read from the pool.
        seconds: spent on the span.
        plan: how the passes ran.
        hardware: what scored; None: what the run was prepared with.
    """

    span: Span
    values: Mapping[str, Values]
    scored: int
    nonfinite_ids: tuple[int, ...]
    unreadable: tuple[tuple[int, int], ...]
    seconds: float
    plan: Mapping[str, Any] = field(default_factory=dict)
    hardware: Hardware | None = None


@dataclass(frozen=True)
class Reading:
    """How the items of a span are read and what is stored of them: the same for all spans of a run.

    Attributes:
        rows: dtype of each row, by name.
        block_items: items that are read and given to the scorer at a time.
        on_bad_chunk: "raise", or "skip" items that cannot be read from the pool.
        fill: put together what is wanted of several blocks; for spans of which little is.
    """

    rows: Mapping[str, np.dtype[Any]]
    block_items: int
    on_bad_chunk: OnBadChunk
    fill: bool = False


@dataclass(frozen=True)
class First:
    """The first items that are to be scored, which a scorer plans with.

    Attributes:
        start: the first of them.
        wanted: which of start, start + 1, ... are to be scored.
        on_bad_chunk: as in ``Reading``.
        plan: the plan to adopt; None: make one.
        check: whether to check that model and input look right together, on a sample of the pool.
    """

    start: int
    wanted: Flags
    on_bad_chunk: OnBadChunk
    plan: Mapping[str, Any] | None = None
    check: bool = False


@dataclass(frozen=True)
class Admission:
    """What a worker must have in common with the run that it scores for.

    Attributes:
        settings: of the prepared scorer of the run.
        hardware: the classes that score into the run.
        mixed: whether others may.
    """

    settings: Settings
    hardware: tuple[Hardware, ...]
    mixed: bool


@runtime_checkable
class LiveTasks(Protocol):
    """Tasks that come while others are scored; None where the next one may be long in coming."""

    def __iter__(self) -> Iterator[SpanTask | None]:
        """The tasks."""

    def end(self) -> None:
        """No more of them are wanted: whoever waits for the next one stops waiting."""


class SpanError(Exception):
    """Items could not be scored. ``where`` names them and their spans, ``why`` is what the model or the device said."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(where, why)
        self.where, self.why = where, why


class Engine(Protocol):
    """Scores spans for a run. Calls raise what the scorer raises; ``score`` also ``SpanError`` and ``ChunkError``."""

    @property
    def device(self) -> str:
        """Name of the device that scores, as of PyTorch."""

    @property
    def size(self) -> int:
        """How many spans are scored at the same time."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What does not look right, if ``prepare`` was asked to check; its names and texts."""

    def staff(self) -> list[dict[str, Any]]:
        """The workers, for those who watch: what each is, the items that it has scored, and what it does."""

    def copy(self, passes: int | None = None, errors: bool | None = None) -> Engine:
        """The same model and settings but those given, not prepared."""

    def describe(self) -> Settings:
        """The settings of the scorer; its sites and plan are known once it is prepared."""

    def hardware(self, known: Sequence[Hardware] = ()) -> Hardware:
        """What scores. Of several workers those that have none of the ``known`` hardware are not used, if that is given."""

    def prepare(self, first: First) -> bool:
        """Show the scorer its first items; False if none of them can be read."""

    def score(
        self, tasks: Iterable[SpanTask], reading: Reading, admission: Admission, stop: Stop, moved: Moved
    ) -> Iterator[SpanScores]:
        """Score tasks until all are or ``stop`` says so: each comes once, in any order, when it is done."""
