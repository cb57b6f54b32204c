"""mcscore label-studio: tasks to a Label Studio server, and labels back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..text import count
from . import shared
from .options import PATH, RUN
from .progress import progress_line, reporting
from .run import texts_of
from .shared import together
from .terminal import as_json, emit

_server = together(
    click.option(
        "--url", envvar="LABEL_STUDIO_URL", help="Where Label Studio is; default: LABEL_STUDIO_URL of the environment."
    ),
    click.option(
        "--token",
        envvar="LABEL_STUDIO_API_KEY",
        help="Personal access token, or legacy token; default: LABEL_STUDIO_API_KEY of the environment, which other users of this "
        "machine do not see.",
    ),
    click.option("--project", help="Project, by its title or id."),
)


@click.group("label-studio")
def label_studio() -> None:
    """Send a selection to Label Studio, and take the labels back."""


@label_studio.command(short_help="Make tasks of a selection of RUN in a project.")
@click.argument("path", metavar="RUN", type=RUN)
@_server
@click.option(
    "--selection",
    metavar="NUMBER|FILE|latest|all",
    default="latest",
    show_default=True,
    help="Selection of RUN to push: its number (see `run selections`), a file, the newest, or all items.",
)
@click.option(
    "--prefix",
    default="",
    help="Text to put before each key to make its address, such as s3://bucket/; default: the pictures are uploaded.",
)
@click.option(
    "--text",
    metavar="FILE:COLUMN",
    help="Texts to label instead of pictures: a table with a column id or key, and the column of the texts.",
)
@shared.pool_now
@click.option("--partial", is_flag=True, help="Push even if RUN is not complete.")
@reporting
@as_json
def push(
    path: Path,
    url: str | None,
    token: str | None,
    project: str | None,
    selection: str,
    text: str | None,
    pool_path: Path | None,
    **how: Any,
) -> None:
    """Make a task of each item of a selection of RUN in a project of Label Studio, with the prediction as a pre-label.

    A project that is missing is made, with a labeling configuration of the classes. A task that is there already is not made again, so
    that a push that was cut short is completed by the same command. Needs the package label-studio-sdk.
    """
    url, token, project = _needed(url=url, token=token, project=project)
    from .. import label_studio as tool
    from ..pool import Pool
    from ..run import Run

    run, pool = Run.open(path), Pool.open(pool_path) if pool_path else None
    how["texts"] = None if text is None else texts_of(run, pool, text)
    server = tool.Server(url, token)
    with progress_line(None, "tasks") as progress:
        done = tool.push(
            run,
            server,
            project,
            selection=None if selection == "all" else selection,
            pool=pool,
            progress=progress,
            **how,
        )
    made = ", made now" if done.project.made else ""
    there = f"{server.url}/projects/{done.project.id}"
    emit(
        {
            "run": str(path),
            "project": done.project.id,
            "title": done.project.title,
            "made": done.project.made,
            "added": done.added,
            "there": done.there,
            "uploaded": done.uploaded,
            "url": there,
        },
        f"project {done.project.id} ({done.project.title}{made}): {count(done.added, 'task')} added, {done.there:,} there already, "
        f"{count(done.uploaded, 'picture')} uploaded",
        f"label at {there}",
        f"then: mcscore label-studio pull {path} --project {done.project.id}",
    )


@label_studio.command(short_help="Take the labels of a project, or an exported file, into the pool.")
@click.argument("path", metavar="RUN", type=RUN)
@_server
@click.option("--file", type=PATH, help="Exported file to read instead: JSON, JSON-MIN, CSV or TSV.")
@click.option(
    "--multi-label/--single-label",
    "several",
    default=None,
    help="Whether an item may have several labels; default: as the likelihood of RUN says.",
)
@click.option("--overwrite", is_flag=True, help="Replace labels that items have already.")
@shared.pool_now
@as_json
def pull(
    path: Path,
    url: str | None,
    token: str | None,
    project: str | None,
    file: Path | None,
    several: bool | None,
    overwrite: bool,
    pool_path: Path | None,
) -> None:
    """Take the labels that were given in Label Studio into the pool of RUN: all of them, or none and the conflicts by name.

    Items that may have several labels have them in RUN/labels/labels.csv, as with `mcscore label`.
    """
    if file is not None and project is not None:
        raise click.UsageError("labels come from --file or from --project, not from both")
    if file is None:
        url, token, project = _needed(url=url, token=token, project=project)
    from .. import label_studio as tool
    from ..pool import Pool
    from ..run import Run

    run, pool = Run.open(path), Pool.open(pool_path) if pool_path else None
    if file is not None:
        export = tool.read_export(file)
    else:
        assert url is not None
        assert token is not None
        assert project is not None
        export = tool.from_project(tool.Server(url, token), project)
    several = run.meta["likelihood"] == "bernoulli" if several is None else several
    done = tool.take_in(run, export, pool, several=several, overwrite=overwrite)
    left_out = [
        f"{n:,} left out: {why}"
        for n, why in (
            (done.unlabeled * (not several), "no choice was made"),
            (done.skipped, "the task was skipped"),
            (done.foreign, "the task is not of this pool"),
        )
        if n
    ]
    emit(
        {
            "run": str(path),
            "from": export.where,
            "changed": done.changed,
            "labeled": done.labeled,
            "unlabeled": done.unlabeled,
            "skipped": done.skipped,
            "foreign": done.foreign,
            "table": None if done.table is None else str(done.table),
        },
        f"{export.where}: {count(done.labeled, 'label')}, {count(done.changed, 'item')} changed",
        *left_out,
        *([] if done.table is None else [f"{done.table}: the labels, which the pool has no place for"]),
    )


def _needed(**given: str | None) -> tuple[str, ...]:
    """The options, all of which are needed."""
    missing = [f"--{name}" for name, value in given.items() if not value]
    if missing:
        raise click.UsageError(f"{' and '.join(missing)} must be given")
    return tuple(value for value in given.values() if value)
