"""The store that zarr writes metadata and columns to: its local store, with durable writes."""

from __future__ import annotations

import asyncio
from typing import Any

from zarr.storage import LocalStore

from ..atomic import create_directory, replace_file


class AtomicStore(LocalStore):
    """Zarr's local store, each object of which is written by :mod:`mcscore.atomic`.

    zarr-python's own renames but does not fsync (and wrote in place before 3.1.1): safe against SIGKILL, not against
    power loss.
    """

    def set_sync(self, key: str, value: Any) -> None:
        """Replace one object; durable on return."""
        self._check_writable()
        path = self.root / key
        create_directory(path.parent)
        replace_file(path, value.as_numpy_array().data)

    async def set(self, key: str, value: Any) -> None:
        """Replace one object; durable on return."""
        if not self._is_open:
            await self._open()
        await asyncio.to_thread(self.set_sync, key, value)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        """Write one object unless it is there; durable on return."""
        if not await self.exists(key):  # zarr asks this of the group, beside writing an array into it
            await self.set(key, value)
