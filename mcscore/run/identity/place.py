"""The pool of a run where it may be gone: only a place with nothing in it counts as gone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import PoolNotFoundError, RunError
from ...paths import exists
from .match import HasPool, find_pool

if TYPE_CHECKING:
    from ...pool import Pool


def pool_unless_gone(run: HasPool, pool: Pool | None = None) -> tuple[Pool | None, PoolNotFoundError | None]:
    """The pool that ``run`` scored, see ``find_pool``; (None, the error) where there is nothing at its recorded place.

    Raises:
        RunError: there is something at that place, but it cannot be opened, or is another pool.
    """
    try:
        return find_pool(run, pool), None
    except PoolNotFoundError as error:
        try:
            there = exists(Path(run.meta["pool"]["path"]))
        except OSError as cause:
            raise RunError(f"the pool of {run.path} cannot be looked for: {cause}") from cause
        if there:
            raise
        return None, error
