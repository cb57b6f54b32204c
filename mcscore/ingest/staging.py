"""Staging directories: a locked directory beside a pool that holds an unfinished import or append.

``settings.json`` records the version of the staging format and the settings of the call. The JSON files in a staging
directory follow the fields of a dataclass; a missing or an unknown field is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..atomic import create_directory, discard_leftovers, replace_file
from ..errors import PoolError
from ..paths import exists, status_of
from ..store.lock import locked_in_turn

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Fields = TypeVar("Fields", bound=DataclassInstance)

VERSION = 2  # of all files in a staging directory


@dataclass(frozen=True)
class Settings:
    """The schema of settings.json; stages of version 1 hold the bare settings."""

    version: int
    settings: dict[str, Any]


@contextmanager
def staged(stage: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Create ``stage`` if it is missing, and hold its lock; wait for another process that holds it.

    Raises:
        PoolError: the stage has another version, or was started with other settings.
    """
    discard_leftovers(stage)
    while True:
        create_directory(stage)
        made = stage.stat().st_ino
        with locked_in_turn(stage):
            if (status := status_of(stage)) is None or status.st_ino != made:
                continue  # the process that held the lock has finished and removed the directory
            check_same(stage, settings)
            yield
            return


def check_same(stage: Path, settings: dict[str, Any]) -> None:
    """Record the settings of a new stage, or compare them with the recorded ones.

    Raises:
        PoolError: the stage has another version, or was started with other settings.
    """
    file = stage / "settings.json"
    if not exists(file):
        write_fields(file, Settings(VERSION, settings))
    version = _read(file).get("version", 1)
    if version != VERSION:
        raise PoolError(
            f"{stage} has version {version} of the staging format, this mcscore reads version {VERSION}: finish with the "
            "mcscore that started it, or remove that directory and run the command again"
        )
    recorded = read_fields(file, Settings).settings
    now = json.loads(json.dumps(settings))
    changed = [_change(name, recorded, now) for name in {**now, **recorded} if recorded.get(name) != now.get(name)]
    if changed:
        raise PoolError(
            f"{stage} cannot be resumed: started with {', '.join(changed)}. Repeat the first call, or remove that directory"
        )


def _change(name: str, recorded: dict[str, Any], now: dict[str, Any]) -> str:
    if name == "source":  # a hash, or a list of files and times
        return "another source"
    return f"{name}={recorded.get(name)}, now {now.get(name)}"


def write_fields(file: Path, values: DataclassInstance) -> None:
    """Write a dataclass as JSON, durably."""
    replace_file(file, json.dumps(asdict(values)).encode())


def read_fields(file: Path, kind: type[Fields]) -> Fields:
    """Read a dataclass from JSON.

    Raises:
        PoolError: the file is not JSON, lacks a field, or has an unknown one.
    """
    values = _read(file)
    known = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(kind)}
    missing = [name for name, required in known.items() if required and name not in values]
    unknown = [name for name in values if name not in known]
    if missing or unknown:
        problem = f"field {missing[0]!r} is missing" if missing else f"field {unknown[0]!r} is unknown"
        raise _unreadable(file, problem)
    return kind(**values)


def _read(file: Path) -> dict[str, Any]:
    try:
        values: Any = json.loads(file.read_bytes())
    except ValueError as error:
        raise _unreadable(file, f"no JSON: {error}") from error
    if not isinstance(values, dict):
        raise _unreadable(file, "no JSON object")
    return values


def _unreadable(file: Path, problem: str) -> PoolError:
    stage = next((folder for folder in file.parents if (folder / "settings.json").exists()), file.parent)
    return PoolError(f"{file}: {problem}. Remove the directory {stage} and run the command again")


def stage_of(path: Path, what: str) -> Path:
    """Return the hidden sibling of ``path`` that stages it: on the same file system, so files move by a rename."""
    return path.with_name(f".{path.name}.{what}")
