"""Where what will be part of a pool waits beside it: a locked directory that says what it was begun with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..atomic import create_directory, discard_leftovers, replace_file
from ..errors import PoolError
from ..store.lock import locked_in_turn


@contextmanager
def staged(stage: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Hold ``stage``, made if need be; another process that holds it is waited for.

    Raises:
        PoolError: it was begun with other settings, and which.
    """
    discard_leftovers(stage)
    while True:
        create_directory(stage)
        made = stage.stat().st_ino
        with locked_in_turn(stage):
            if not stage.exists() or stage.stat().st_ino != made:
                continue  # the one that was waited for has finished, and removed what it held
            check_same(stage, settings)
            yield
            return


def check_same(stage: Path, settings: dict[str, Any]) -> None:
    """As for staged, of one that is held or that nobody is going to change."""
    file = stage / "settings.json"
    if not file.exists():
        replace_file(file, json.dumps(settings).encode())
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
