"""mcscore label: the labeling page of a selection."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

from ..text import count
from . import shared
from .options import PATH, SELECTION
from .terminal import as_json, echo, emit


@click.command(short_help="Label the selected items of RUN in a browser on this machine.")
@click.argument("path", metavar="RUN", type=PATH)
@click.option(
    "--selection",
    type=SELECTION,
    metavar="NUMBER|FILE",
    help="Selection of RUN to label, see `run selections`; default: the newest.",
)
@shared.pool_now
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port of the page on this machine; default: a free one."
)
@click.option("--token", metavar="TEXT", help="What the address of the page must hold; default: random.")
@click.option(
    "--multi-label/--single-label",
    "several",
    default=None,
    help="Whether an item may have several labels; default: as the likelihood of RUN says.",
)
@click.option(
    "--text",
    metavar="FILE:COLUMN",
    help="CSV or Parquet file with a column id or key, and the column of texts to show of the items.",
)
@as_json
def label(
    path: Path,
    selection: Path | str | None,
    pool_path: Path | None,
    port: int,
    token: str | None,
    several: bool | None,
    text: str | None,
) -> None:
    """Serve a page on which the selected items of RUN are labeled, and print its address; Ctrl-C ends it.

    Each label is durable in the pool when the page shows it. An item that may have several labels has them in
    RUN/labels/labels.csv. RUN/labels/log.jsonl tells what was given when.

    The page is served on this machine only. From another one: ssh -L 8642:localhost:8642 HOST, and --port 8642.
    """
    from ..label_app.server import Server
    from ..label_app.session import Session
    from ..pool import Pool
    from ..run import Run
    from ..run.identity.match import find_pool
    from ..run.selecting.item_columns import texts_from

    run = Run.open(path)
    pool = find_pool(run, Pool.open(pool_path) if pool_path else None)
    session = Session(run, pool, selection, several=several, texts=None if text is None else texts_from(pool, text))
    server = Server(session, port, token)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    facts: dict[str, Any] = {
        "url": server.url,
        "run": str(path),
        "selection": str(session.file),
        "items": len(session.ids),
        "labeled": session.done(),
    }
    emit(
        facts,
        f"{count(len(session.ids), 'item')} of {session.file}, {facts['labeled']:,} labeled",
        f"open {server.url}",
        "Ctrl-C ends",
    )
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
    for line in session.close():
        echo(line, err=True)
