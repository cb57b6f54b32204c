"""Whether a run belongs to a pool and to the settings of a scorer: it is resumed with exactly the same."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import platform
import uuid
import warnings
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import PoolError, PoolNotFoundError, RunError
from ...store.files import AnyPath, location
from ..schema import JSON, Hardware, PoolState, RunHeader, Settings, from_json, to_json
from ..screening.options import Screen

if TYPE_CHECKING:
    from ...pool import Pool

# Where the model came from and where it runs: a difference is fine, or shows in the fingerprint or the hardware class.
_FREE = {
    *("model.class", "model.spec", "model.weights", "model.weights_part", "model.spec_sha256"),
    *("model.code", "model.unseen", "model.changing"),  # see code.py
    *("pool.path", "pool.identity", "plan", "device", "threads"),
}
# Known only once the scorer has seen items.
_AFTER_PREPARE = {"sites"}


class HasPool(Protocol):
    """A run, as far as its pool is concerned."""

    @property
    def path(self) -> AnyPath:
        """The run directory."""

    @property
    def meta(self) -> JSON:
        """The content of run.json."""


def new_header(
    pool: Pool, settings: Settings, span: int, block_items: int, labeled: bool, hardware: Hardware
) -> RunHeader:
    """Make the run.json of a new run; ``settings`` are those of a prepared scorer."""
    return RunHeader(
        id=uuid.uuid4().hex,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        pool=state_of(pool),
        settings=settings,
        labeled=labeled,
        span=span,
        block_items=block_items,
        versions=versions(),
        hardware=(hardware,),
    )


def refuse_difference(
    path: AnyPath,
    header: RunHeader,
    pool: Pool,
    settings: Settings,
    *,
    span: int | None,
    labeled: bool,
    screen: Screen | None,
    prepared: bool,
    checked: bool = False,
) -> None:
    """Compare a recorded run with the pool, settings and span (None: the recorded one) that are to continue it.

    Before the scorer was prepared its sites are not compared, as it does not know them yet. A pool that has been appended
    to is the same one. checked: as for ``is_pool_of``.

    Raises:
        RunError: they differ; names the first field that does, both values, and what to do.
        ChunkError: the pool differs because it has lost a file.
    """
    first = header.grown[0] if header.grown else header.pool
    span = header.span if span is None else min(span, first.n)  # as it was decided at the start, for that many items
    same_pool = is_pool_of(header.pool, pool, checked=checked)
    if not same_pool:
        pool.check_files()
    now = dataclasses.replace(
        header,
        pool=header.pool if same_pool else state_of(pool),
        settings=settings,
        span=span,
        labeled=labeled,
        screen=screen,
    )
    free = _FREE if prepared else _FREE | _AFTER_PREPARE
    for (field, recorded), (_, given) in zip(_compared(header), _compared(now), strict=True):
        if field not in free and recorded != given:
            raise RunError(
                f"{path} cannot be resumed: started with {field}={json.dumps(recorded)}, now {json.dumps(given)}. "
                "Use what was recorded, or score into another directory"
            )


def first_difference(recorded: Settings, given: Settings) -> str:
    """The first setting in which two scorers that are prepared differ, as "passes=30, not 20"; empty if there is none."""
    for (field, one), (_, other) in zip(_settings(recorded), _settings(given), strict=True):
        if (field not in _FREE or field == "model.code") and one != other:
            shown = "" if field == "model.code" else f"={json.dumps(other)}, not {json.dumps(one)}"
            return f"another {field}{shown}"
    return ""


def warn_of_other_versions(path: AnyPath, header: RunHeader) -> None:
    """Warn if the run goes on under other versions, where the same computation may end in other last bits."""
    if (now := versions()) != header.versions:
        then = dict(header.versions)
        changes = [f"{name} {then.get(name)} then, {now[name]} now" for name in now if then.get(name) != now[name]]
        warnings.warn(
            f"{path} is resumed with other versions, so the last bits of scores may differ: {'; '.join(changes)}",
            stacklevel=2,
        )


def is_pool_of(recorded: PoolState, pool: Pool, *, checked: bool = False) -> bool:
    """Whether ``pool`` is the one recorded, or what it has become by appending.

    checked: another process has checked its files, so that metadata suffice where they say that it is: of 100,000 files at a URL
    the fingerprint takes minutes, in each of a thousand workers.
    """
    if checked and recorded.identity and pool.identity(recorded.n) == recorded.identity:
        return True
    if pool.n > recorded.n:
        return pool.fingerprint_at(recorded.n) == recorded.fingerprint
    return (pool.n, pool.fingerprint) == (recorded.n, recorded.fingerprint)


def find_pool(run: HasPool, pool: Pool | None = None) -> Pool:
    """Find the pool that ``run`` scored: ``pool`` if given, else what is at the recorded place.

    Raises:
        PoolNotFoundError: ``pool`` is None and there is no pool at the recorded place.
        RunError: it is neither the pool that was scored nor what that has become by appending.
        ChunkError: it has lost a file.
    """
    from ...pool import Pool

    recorded = from_json(PoolState, run.meta["pool"], f"{run.path / 'run.json'}: pool")
    if pool is None:
        try:
            pool = Pool.open(recorded.path)
        except PoolError as error:
            raise PoolNotFoundError(
                f"the pool of {run.path} is not where it was: {error}. Pass pool=, opened where it is"
            ) from error
    if not is_pool_of(recorded, pool):
        pool.check_files()  # if it has lost a file, that is the error
        raise RunError(
            f"{pool.path} is not the pool that {run.path} scored: "
            f"its fingerprint is {pool.fingerprint}, recorded is {recorded.fingerprint}"
        )
    return pool


def state_of(pool: Pool) -> PoolState:
    """What run.json says of the pool."""
    return PoolState(path=location(pool.path), fingerprint=pool.fingerprint, n=pool.n, identity=pool.identity() or "")


def versions() -> dict[str, str]:
    """The versions that may change the last bits of a score."""
    return {"python": platform.python_version(), **_installed()}


@functools.cache  # it parses the whole description of each package, 2 ms, and every span is committed with the versions
def _installed() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("mcscore", "torch", "numpy")}


def _compared(header: RunHeader) -> Iterator[tuple[str, Any]]:
    """The values to compare, by name; those of pool and model one by one. The screen comes first, as it decides on others."""
    yield "screen", to_json(header.screen)
    yield from ((f"pool.{key}", part) for key, part in to_json(header.pool).items())
    yield from _settings(header.settings)
    yield "span", header.span
    yield "labeled", header.labeled


def _settings(settings: Settings) -> Iterator[tuple[str, Any]]:
    """The settings by name, those of the model one by one."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from ((f"{field.name}.{key}", part) for key, part in to_json(value).items())
        else:
            yield field.name, to_json(value)
