"""What a worker is told, and what it answers. All of it can be pickled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ... import errors
from ...errors import ChunkError, Error
from ...recipe import Recipe
from ..schema import Hardware, PoolState, Settings
from ..spans import Span
from .task import First, Reading, SpanError, SpanScores, SpanTask

if TYPE_CHECKING:
    from ...scorer.checks import Finding

Variant = tuple[int | None, bool | None]  # passes and errors of a copy of the scorer; None: its own


@dataclass(frozen=True)
class Outfit:
    """What a worker needs to begin.

    Attributes:
        pool: where the pool lies, and which data it has.
        recipe: makes the scorer.
        threads: of torch and of our kernels.
    """

    pool: PoolState
    recipe: Recipe
    threads: int


@dataclass(frozen=True)
class Describe:
    """Say what the scorer is; answered by ``Described``."""

    variant: Variant


@dataclass(frozen=True)
class Prepare:
    """Prepare the scorer on the first items; answered by ``Described``."""

    variant: Variant
    first: First


@dataclass(frozen=True)
class Score:
    """Score a span; answered by ``Moved`` now and then, and by ``Scored``. ``session``: comes back with these."""

    variant: Variant
    session: int
    reading: Reading
    task: SpanTask


@dataclass(frozen=True)
class Embed:
    """Compute the embeddings of a few items; answered by ``Embedded``."""

    part: int
    ids: npt.NDArray[np.int64]


Order = Describe | Prepare | Score | Embed


@dataclass(frozen=True)
class Hello:
    """The worker has its scorer and the pool. ``place``: host and device, for people."""

    place: str


@dataclass(frozen=True)
class Described:
    """Scorer, hardware and device. ``prepared``: False if none of the first items could be read. ``findings``: of the checks."""

    variant: Variant
    settings: Settings
    hardware: Hardware
    device: str
    prepared: bool = True
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Moved:
    """The items of a span up to ``stop`` are scored."""

    session: int
    span: Span
    stop: int


@dataclass(frozen=True)
class Scored:
    """The scores of a span."""

    session: int
    scores: SpanScores


@dataclass(frozen=True)
class Embedded:
    """The embeddings (n, D) of the items of an order."""

    part: int
    rows: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Failed:
    """The scorer or the pool raised. ``parts``: the arguments of the error of that name, or of RunError."""

    name: str
    parts: tuple[object, ...]

    @staticmethod
    def of(error: Exception) -> Failed:
        """Take down an error."""
        if isinstance(error, SpanError):
            return Failed("SpanError", (error.where, error.why))
        if isinstance(error, ChunkError):
            return Failed("ChunkError", (str(error), error.start, error.stop, error.why))
        if isinstance(error, Error):
            return Failed(type(error).__name__, (str(error),))
        return Failed("RunError", (f"a worker failed: {type(error).__name__}: {error}",))

    def error(self) -> Exception:
        """The error again."""
        kind: Callable[..., Exception] = SpanError if self.name == "SpanError" else getattr(errors, self.name)
        return kind(*self.parts)


@dataclass(frozen=True)
class Ended:
    """The worker is gone. ``why``: "killed by signal 9", "exit code 1", ..."""

    why: str


Reply = Hello | Described | Moved | Scored | Embedded | Failed | Ended


class Team(Protocol):
    """Workers, whatever runs them. Every call is made by one thread."""

    def begin(self) -> int:
        """Start one more worker and return its number, never given before. It says ``Hello``, or ``Ended``."""

    def send(self, worker: int, order: Order) -> None:
        """Give a worker an order; orders are carried out one after the other. Nothing happens if the worker is gone."""

    def wait(self, seconds: float) -> list[tuple[int, Reply]]:
        """Return what workers have answered, by worker in the order of their answers; wait for the first one for so long at most."""

    def end(self, worker: int) -> None:
        """Stop a worker at once. It says ``Ended`` like one that died."""

    def close(self) -> None:
        """Stop all workers at once."""
