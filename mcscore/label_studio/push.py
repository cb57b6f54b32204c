"""Tasks of a run into a project of Label Studio; a task that is there already is not made again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..store.files import Where
from .server import AT_ONCE, Project, Server

if TYPE_CHECKING:
    from ..pool import Pool
    from ..run import Run


@dataclass(frozen=True)
class Pushed:
    """What ``push`` did.

    Attributes:
        project: where the tasks are.
        added: how many tasks were made.
        there: how many were there already.
        uploaded: how many pictures were uploaded.
    """

    project: Project
    added: int
    there: int
    uploaded: int


def push(
    run: Run,
    server: Server,
    project: str,
    *,
    selection: Where | int | None = "latest",
    prefix: str = "",
    texts: dict[int, str] | None = None,
    pool: Pool | None = None,
    partial: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Pushed:
    """Make tasks of a selection in a project, which is made with its labeling configuration if it is missing.

    A call that was cut short is completed by the same call: what is there is known by item and pool.

    Args:
        run: the run.
        server: where the project is.
        project: its id, or its title.
        selection: a selection of the run: its number, its file, or "latest"; None: all items.
        prefix: put before a key to make the address of a picture; without it and without texts the pictures are uploaded.
        texts: id -> text to show of an item, instead of a picture.
        pool: the pool, if it is not at its recorded place.
        partial: take an incomplete run.
        progress: called as progress(tasks made, tasks to make).

    Raises:
        RunError: as of ``Run.export``; the server cannot be reached or refuses something; the project labels something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        images = None if prefix or texts is not None else Path(folder) / "pictures"
        file = run.export(
            "label-studio",
            Path(folder) / "tasks.json",
            selection=selection,
            prefix=prefix if images is None else images.as_uri() + "/",
            images=images,
            texts=texts,
            pool=pool,
            partial=partial,
        )
        tasks, config = json.loads(file.read_bytes()), file.with_suffix(".xml").read_text(encoding="utf-8")
        where = server.project(project, config)
        there = {_item(task["data"]) for task in server.tasks(where.id)}
        missing = [task for task in tasks if _item(task["data"]) not in there]
        done = 0
        for at in range(0, len(missing), AT_ONCE):
            part = missing[at : at + AT_ONCE]
            if images is not None:
                _upload(server, where, part)
            server.add(where.id, part)
            done += len(part)
            if progress is not None:
                progress(done, len(missing))
    return Pushed(where, done, len(tasks) - len(missing), 0 if images is None else len(missing))


def _item(data: dict[str, Any]) -> tuple[Any, Any]:
    return data.get("pool"), data.get("item")


def _upload(server: Server, project: Project, tasks: list[dict[str, Any]]) -> None:
    """Upload the pictures of the tasks, and put their new addresses there."""
    files = [Path(urlsplit(task["data"]["image"]).path) for task in tasks]
    addresses = server.upload(project.id, files)
    for task, file in zip(tasks, files, strict=True):
        task["data"]["image"] = addresses[file.name]
