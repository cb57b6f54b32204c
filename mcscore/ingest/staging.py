"""Where what will be part of a pool waits beside it: a locked directory that says what it was begun with."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import PoolError
from ..store.durable import locked, sync_directory, write_file


@contextmanager
def staged(stage: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Hold ``stage``, made if need be; another process that holds it is waited for.

    Raises:
        PoolError: it was begun with other settings, and which.
    """
    for leftover in stage.parent.glob(f"{stage.name}.*.done"):
        shutil.rmtree(leftover, ignore_errors=True)
    while True:
        stage.mkdir(parents=True, exist_ok=True)
        made = stage.stat().st_ino
        with locked(stage):
            if not stage.exists() or stage.stat().st_ino != made:
                continue  # the one that was waited for has finished, and removed what it held
            check_same(stage, settings)
            yield
            return


def check_same(stage: Path, settings: dict[str, Any]) -> None:
    """As for staged, of one that is held or that nobody is going to change."""
    file = stage / "settings.json"
    if not file.exists():
        write_file(file, json.dumps(settings).encode())
        sync_directory(stage.parent)
    recorded = json.loads(file.read_bytes())
    now = json.loads(json.dumps(settings))
    changed = [name for name in now if recorded.get(name) != now[name]]
    if changed:
        raise PoolError(
            f"what was begun in {stage} had other {', '.join(changed)}; go on with the same, or remove that directory"
        )


def stage_of(path: Path, what: str) -> Path:
    """A hidden sibling, so on the same file system: what is ready there gets its place by a rename."""
    return path.with_name(f".{path.name}.{what}")


def discard(stage: Path) -> None:
    """Remove a stage at once: half of one would say something else than all of it or none."""
    gone = stage.with_name(f"{stage.name}.{uuid.uuid4().hex}.done")
    os.rename(stage, gone)
    sync_directory(stage.parent)
    shutil.rmtree(gone, ignore_errors=True)


def move_files(source: Path, target: Path) -> None:
    """Give every file below a directory its place below another, durably; what an earlier call moved stays."""
    touched = {target}
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
        touched.update(parent for parent in place.parents if parent.is_relative_to(target))
    for directory in touched:
        sync_directory(directory)
