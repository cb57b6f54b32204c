"""mcscore pool: make a pool of items on disk, and look at one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..terminal import answer, as_json, progress_line
from .options import COMMA, PATH, names, numbers


@click.group()
def pool() -> None:
    """Make a pool of items on disk, and look at one."""


@pool.command("import")
@click.argument("src", type=PATH)
@click.argument("dst", type=PATH)
@click.option(
    "--size", type=click.IntRange(1), help="For images (a folder, tars, Parquet): pixels per side to resize to."
)
@click.option("--grey", is_flag=True, help="For images: one channel instead of three.")
@click.option(
    "--source-labels", is_flag=True, help="For images: labels from class folders, .cls members or column label."
)
@click.option("--column", help="For Parquet: the column of images.")
@click.option("--max-bad", type=click.IntRange(0), help="For images: stop when more than this cannot be used.")
@click.option("--workers", type=click.IntRange(1), help="For images: decoding processes; default one per core.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--labels", type=PATH, help="Labels of the items, -1 where unlabelled: a .npy, .npz or idx array.")
@click.option(
    "--layout", type=click.Choice(["hw", "hwc", "chw"]), help="Axes of an image in SRC; stored as channels first."
)
@click.option("--mean", callback=numbers, metavar=COMMA, help="Mean per channel, in units of [0, 1].")
@click.option("--std", callback=numbers, metavar=COMMA, help="Standard deviation per channel, in units of [0, 1].")
@click.option("--classes", callback=names, metavar=COMMA, help="Names of the classes, in order.")
@click.option("--key", help="Which array of an .npz holds the items.")
@as_json
def pool_import(
    src: Path,
    dst: Path,
    size: int | None,
    grey: bool,
    source_labels: bool,
    column: str | None,
    max_bad: int | None,
    workers: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Make a new pool at DST of SRC: an array (.npy, .npz, idx, also .gz), or with --size images.

    Images come from a folder, WebDataset tars ('train-{000..127}.tar') or Parquet. Killed, the same command goes on. What
    cannot be used is listed in DST.bad.csv.
    """
    from ..pool.import_images import import_images
    from ..pool.importers import import_array

    if size is not None:
        if arrays := [name for name in ("labels", "layout", "key") if options.pop(name) is not None]:
            raise click.UsageError(f"--{arrays[0]} belongs to arrays, --size to images")
        with progress_line(None, quiet) as progress:
            made = import_images(
                src,
                dst,
                size=size,
                channels=1 if grey else 3,
                labels=source_labels,
                column=column,
                max_bad=max_bad,
                workers=workers,
                progress=progress,
                **options,
            )
    elif grey or source_labels or column or max_bad is not None or workers:
        raise click.UsageError("options for images need --size")
    else:
        made = import_array(src, dst, **options)
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
