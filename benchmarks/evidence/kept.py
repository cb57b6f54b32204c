"""Results that are kept: what is done is not done again, so that an experiment that was killed goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcscore import Pool
from mcscore.atomic import replaced
from mcscore.store.lock import locked_in_turn

JSON = dict[str, Any]


def kept(path: Path, compute: Callable[[], JSON]) -> JSON:
    """What the file at ``path`` holds; computed and written, whole or not at all, if there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, compute())
    return json.loads(path.read_text())


def pool_of(path: Path, items: Any, **facts: Any) -> Pool:
    """The pool at ``path``; made of the items if there is none, by one of the processes that ask for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked_in_turn(path.parent):
        return Pool.open(path) if path.exists() else Pool.create(path, items, **facts)


def write(path: Path, content: JSON) -> None:
    """Write JSON, whole or not at all."""
    with replaced(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")
