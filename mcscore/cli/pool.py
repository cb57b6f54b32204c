"""mcscore pool: make a pool of items on disk, and look at one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..terminal import answer, as_json
from .options import COMMA, PATH, names, numbers

if TYPE_CHECKING:
    pass


@click.group()
def pool() -> None:
    """Make a pool of items on disk, and look at one."""


@pool.command("import")
@click.argument("src", type=PATH)
@click.argument("dst", type=PATH)
@click.option("--labels", type=PATH, help="Labels of the items, -1 where unlabelled: a .npy, .npz or idx array.")
@click.option(
    "--layout", type=click.Choice(["hw", "hwc", "chw"]), help="Axes of an image in SRC; stored as channels first."
)
@click.option("--mean", callback=numbers, metavar=COMMA, help="Mean per channel, in units of [0, 1].")
@click.option("--std", callback=numbers, metavar=COMMA, help="Standard deviation per channel, in units of [0, 1].")
@click.option("--classes", callback=names, metavar=COMMA, help="Names of the classes, in order.")
@click.option("--key", help="Which array of an .npz holds the items.")
@as_json
def pool_import(src: Path, dst: Path, labels: Path | None, **options: Any) -> None:
    """Copy the array in SRC (.npy, .npz, or idx, also .gz) into a new pool at DST."""
    from ..pool.importers import import_array

    made = import_array(src, dst, labels=labels, **options)
    facts = _pool_facts(made)
    answer(facts, f"{dst}: {made.n:,} items of {facts['dtype']} {facts['item_shape']}, {facts['labelled']:,} labelled")


@pool.command("info")
@click.argument("path", metavar="POOL", type=PATH)
@as_json
def pool_info(path: Path) -> None:
    """What POOL holds: items, labels, exclusions, classes, fingerprint."""
    from ..pool import Pool

    facts = _pool_facts(Pool.open(path))
    answer(facts, *(f"{name:12} {'-' if value is None else value}" for name, value in facts.items()))


def _pool_facts(pool: Any) -> dict[str, Any]:
    return {
        "path": str(pool.path),
        "items": pool.n,
        "item_shape": list(pool.item_shape),
        "dtype": str(pool.dtype),
        "labelled": int((pool.labels >= 0).sum()),
        "excluded": int(pool.excluded.sum()),
        "keys": pool.keys is not None,
        "classes": pool.classes,
        "mean": pool.mean,
        "std": pool.std,
        "source": pool.source,
        "fingerprint": pool.fingerprint,
    }
