"""mcscore pool label: labels from a table."""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path

import click

from ..text import count
from .options import COMMA, PATH, POOL, names
from .shared import Command
from .terminal import as_json, emit

KINDS = ("class", "number")
READINGS = ("names", "numbers")

labels_are = functools.partial(
    click.option,
    "--labels-are",
    type=click.Choice(READINGS),
    help="Read labels of digits as names or as numbers of classes.",
)


def _separator(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    character = {"tab": "\t", "\\t": "\t"}.get(value, value)
    if len(character) != 1 or character in '"\r\n':
        raise click.BadParameter(f"{value!r} is not one character, nor tab")
    return character


@click.command("label", cls=Command)
@click.argument("path", metavar="POOL", type=POOL)
@click.argument("table", type=PATH)
@click.option("--overwrite", is_flag=True, help="Replace labels that items have already.")
@click.option("--id-column", metavar="NAME", help="The column of item ids; default: item, else id.")
@click.option("--key-column", metavar="NAME", help="The column of keys; default: key.")
@click.option("--label-column", metavar="NAME", help="The column of labels; default: label.")
@click.option(
    "--separator",
    callback=_separator,
    metavar="CHARACTER",
    help="What stands between the columns of a CSV file, or 'tab'.",
)
@labels_are()
@click.option(
    "--name", default="label", metavar="NAME", help="The column of labels in POOL that gets them; default: label."
)
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    help="Labels are classes or numbers to be predicted: of a new column, or of one in which nothing is labeled.",
)
@click.option(
    "--classes", callback=names, metavar=COMMA, help="Names of the classes of a new column; default: those of POOL."
)
@as_json
def pool_label(
    path: Path,
    table: Path,
    overwrite: bool,
    id_column: str | None,
    key_column: str | None,
    label_column: str | None,
    separator: str | None,
    labels_are: str | None,
    name: str,
    kind: str | None,
    classes: tuple[str, ...] | None,
) -> None:
    """Label items of POOL from TABLE, which has a column label, and a column id or key.

    TABLE is CSV (.csv, .tsv; comma, semicolon, tab or |), Parquet, or JSON: a list of objects, an object a line (.jsonl), or an object
    of labels by id or key. Labels are class names or numbers (--labels-are says which where a class has the number of another as
    its name); -1 takes a label away, and a row without a label (empty, null, NaN, NA) changes nothing. With --kind number they
    are numbers to be predicted (regression). All labels are set or none: conflicts are named, and nothing changes.

    A second annotator, or another question, gets a column of its own by --name and --kind. Items are labeled, and so neither
    scored nor selected, if the column label has a value.
    """
    from ..labels import has_label
    from ..pool import Pool, label_from
    from ..pool.table import Columns

    columns = Columns(id_column, key_column, label_column, separator)
    done = label_from(
        Pool.open(path),
        table,
        overwrite=overwrite,
        columns=columns,
        reading=labels_are,
        name=name,
        kind=kind,
        classes=classes,
    )
    opened = Pool.open(path)
    labeled = int(has_label(opened.labels_of(name)).sum())
    facts = {"path": str(path), "name": name, **asdict(done), "labeled": labeled, "items": opened.n}
    without = count(done.rows_without_label, "row") + " without a label left out, " if done.rows_without_label else ""
    of = "" if name == "label" else f" with {name}"
    emit(facts, f"{path}: {done.changed:,} labels set, {without}{labeled:,} of {opened.n:,} items are labeled{of}")
