"""Whether a run still reads the pool that it was started with, at every commit.

Exchanged by renaming for another pool of the same shape, a pool used to be scored to the end under the fingerprint of the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import PoolError, RunError
from ..schema import PoolState
from .match import is_pool_of

if TYPE_CHECKING:
    from ...pool import Pool


class PoolWatch:
    """Compares the pool on disk with the recorded one, where something was exchanged since the last time.

    Through its fingerprint, if that was read through ``pool`` before; by its metadata alone, if it was not: in a worker or a
    shard, which leave the files to the process that has checked them. Labels, exclusion flags and keys may change while a run
    goes on, and items may be appended.
    """

    def __init__(self, pool: Pool, recorded: PoolState) -> None:
        self._pool, self._recorded = pool, recorded
        self._checked = pool.fingerprinted is None  # by another process
        self._marks: object = None

    def require_same(self, what: str, *, wholly: bool = False) -> None:
        """Check that what was read so far is of the recorded pool.

        Args:
            what: is not kept otherwise, for the message.
            wholly: read the fingerprint in any case.

        Raises:
            RunError: it is another pool, or none.
        """
        try:
            now = self._pool.marks()
            if now == self._marks and not wholly:
                return
            # What was fingerprinted may have been opened long ago.
            known = now == self._pool.fingerprinted and not wholly
            found = self._pool if known else self._pool.reopened()
            same = is_pool_of(self._recorded, found, checked=self._checked and not wholly)
        except (PoolError, OSError) as error:
            raise RunError(f"{self._pool.path} cannot be found again while it is scored ({error}): {what}") from error
        if not same:
            raise RunError(
                f"{self._pool.path} was exchanged or changed while it was scored: its fingerprint is {found.fingerprint}, the run was "
                f"started with {self._recorded.fingerprint}. {what[0].upper()}{what[1:]}. Put the pool back to resume"
            )
        self._marks = now
