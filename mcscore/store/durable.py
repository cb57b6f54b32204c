"""Writes that survive a crash: temporary name, fsync, rename, fsync of the directory.

zarr-python's own local store renames but does not fsync (and, before 3.1.1, wrote in place): safe against SIGKILL, not
against power loss.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zarr.storage import LocalStore


def write_file(path: Path, *parts: Any) -> None:
    """Replace ``path`` by ``parts`` (bytes-like, one after another) so that a reader, or a crash, finds the old or the new."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DurableStore(LocalStore):
    """zarr's local store with every object written by :func:`write_file`."""

    async def set(self, key: str, value: Any) -> None:
        if not self._is_open:
            await self._open()
        path = self.root / key
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(write_file, path, value.as_numpy_array().data)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the advisory lock of a directory; another holder, in any process of this host, is waited for."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill that becomes ``path`` at the end, or vanishes on any exception.

    It is filled as a hidden sibling, so nothing half made ever has the final name. A SIGKILL leaves the sibling; it is
    locked while its maker lives, so the next call with the same ``path`` knows dead ones and removes them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.partial"):
        _remove_if_abandoned(leftover)
    partial = made = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir()
    try:
        with locked(partial):
            os.stat(partial)  # raises if a call for the same path took it for a dead one before the lock was ours
            yield partial
            sync_directory(partial)
            os.rename(partial, path)
            made = path
            sync_directory(path.parent)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _remove_if_abandoned(partial: Path) -> None:
    with contextlib.suppress(FileNotFoundError, BlockingIOError):  # removed by another, or its maker lives
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(partial, ignore_errors=True)
        finally:
            os.close(descriptor)
