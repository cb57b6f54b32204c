"""mcscore pool: makes a pool on disk, changes it, inspects it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import COMMA, PATH, POOL, names, numbers
from .pixel_options import image_option, pixel_options
from .pool_facts import described, formatted, lines, pool_facts, storage_facts
from .pool_label import KINDS, labels_are, pool_label
from .progress import progress_line, reporting
from .shared import Command, Option, together
from .terminal import FAILED, as_json, echo, emit, fail

if TYPE_CHECKING:
    from ..ingest.counts import Counts


@click.group()
def pool() -> None:
    """Make a pool of items on disk, change it, inspect it."""


pool.add_command(pool_label)


@dataclass(frozen=True)
class SourceOptions:
    """The options that import and append share, by the kind of source that they belong to; options not given are left out."""

    images: dict[str, Any]
    arrays: dict[str, Any]

    def for_images(self, why: str) -> dict[str, Any]:
        """Return the options for images.

        Raises:
            UsageError: an option for arrays was given.
        """
        for name in self.arrays:
            raise click.UsageError(f"--{name} belongs to arrays, {why}")
        return self.images

    def for_array(self, why: str) -> dict[str, Any]:
        """Return the options for arrays.

        Raises:
            UsageError: an option for images was given.
        """
        if self.images:
            raise click.UsageError(why)
        return self.arrays


_arrays = functools.partial(click.option, cls=Option, section="Arrays")
_facts = functools.partial(click.option, cls=Option, section="Pool")


def _source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a source, which it gets as ``options: SourceOptions``."""

    @functools.wraps(command)
    def with_options(
        *args: Any,
        source_labels: bool,
        column: str | None,
        max_bad: int | None,
        workers: int | None,
        labels_are: str | None,
        labels: Path | None,
        layout: str | None,
        key: str | None,
        **more: Any,
    ) -> Any:
        images = {
            "labels": source_labels or None,
            "column": column,
            "max_bad": max_bad,
            "workers": workers,
            "reading": labels_are,
        }
        arrays = {"labels": labels, "layout": layout, "key": key}
        return command(*args, options=SourceOptions(_given(images), _given(arrays)), **more)

    return together(
        image_option(
            "--source-labels", is_flag=True, help="Take labels from class folders, .cls members, or the column label."
        ),
        labels_are(cls=Option, section="Images"),
        image_option(
            "--column",
            help="Parquet: the column that holds the images; default: the only column of images. Tars: the extension of the images.",
        ),
        image_option(
            "--max-bad", type=click.IntRange(0), help="Stop when more images than this cannot be used; default: never."
        ),
        image_option("--workers", type=click.IntRange(1), help="Processes that decode; default: one per core."),
        _arrays("--key", help=".npz or Zarr group: the array that holds the items; default: the only array."),
        _arrays(
            "--layout", type=click.Choice(["hw", "hwc", "chw"]), help="Axes of an item in SRC: height, width, channels."
        ),
        _arrays(
            "--labels", type=PATH, help="Labels, -1 (of numbers NaN) where an item has none: a .npy, .npz or idx array."
        ),
        reporting,
    )(with_options)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@pool.command("import", cls=Command)
@click.argument("src", type=PATH)
@click.argument("dst", type=PATH)
@pixel_options
@_source_options
@_facts("--classes", callback=names, metavar=COMMA, help="Names of the classes, in the order of their numbers.")
@_facts("--mean", callback=numbers, metavar=COMMA, help="Mean of each channel, with values scaled to [0, 1].")
@_facts(
    "--std", callback=numbers, metavar=COMMA, help="Standard deviation of each channel, with values scaled to [0, 1]."
)
@_facts(
    "--label-kind",
    type=click.Choice(KINDS),
    default="class",
    help="Labels are classes (default), or numbers to be predicted (regression), NaN where an item has none.",
)
@as_json
def pool_import(
    src: Path,
    dst: Path,
    size: int | tuple[int, int] | None,
    pixels: dict[str, Any],
    options: SourceOptions,
    label_kind: str,
    **facts: Any,
) -> None:
    """Make a pool at DST from SRC: an array, or images.

    An array is .npy, .npz, idx or idx.gz, or Zarr (a folder, or folder::name). Images are a folder of files, WebDataset tars
    ('train-{000..127}.tar') or Parquet files, and need --size: JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF, and HEIF
    (pip install 'mcscore[heif]').

    An image is turned as its EXIF says; laid on white where it is transparent (--background); made RGB, or gray by --gray; and
    stored with 8 bits a value, of 16 bits the high byte (--range, --depth). The shorter side is resized to --size by bilinear
    interpolation with antialiasing and the middle is kept, as in the usual evaluation transform (--fit). Color profiles are not
    applied. Values are stored as 0 to 255, and normalized (--mean, --std) when they are scored.

    After a kill, the same command resumes. The closing lines count what was stored, refused (each is listed in DST.bad.csv),
    passed over and converted.
    """
    from ..ingest import import_array, import_images
    from ..ingest.counts import Counts

    told: list[Counts] = []
    if size is not None:
        chosen = options.for_images("--size to images")
        if label_kind != "class":
            raise click.UsageError(
                "labels of images in SRC are classes: import without --label-kind, then `mcscore pool label POOL TABLE --kind number`"
            )
        with progress_line(None) as progress:
            made = import_images(
                src,
                dst,
                size=size,
                progress=progress,
                report=told.append,
                **pixels,
                **chosen,
                **facts,
            )
    else:
        if pixels:
            raise click.UsageError("options for images need --size")
        chosen = options.for_array("options for images need --size")
        made = import_array(src, dst, label_kind=label_kind, progress=False, **chosen, **facts)
        told.append(Counts(made.n))
    stored = pool_facts(made)
    count = told[0]
    text = f"{dst}: {made.n:,} items of {stored['dtype']} {stored['item_shape']}, {stored['labeled']:,} labeled"
    emit({**stored, **count.to_json()}, text, *count.lines())


@pool.command("append", cls=Command, short_help="Add the items of SRC to POOL: an array, or images.")
@click.argument("path", metavar="POOL", type=POOL)
@click.argument("src", type=PATH)
@_source_options
@as_json
def pool_append(path: Path, src: Path, options: SourceOptions) -> None:
    """Add the items of SRC to POOL: images, resized as those in POOL, or an array, of the kinds that `import` takes.

    The ids of the items in POOL stay, and a run over POOL resumes with the new items. After a kill, the same command resumes.
    Images whose key is in POOL already are listed in POOL.bad.csv, so a folder that has grown can be given again.
    """
    from ..ingest import append_array, append_images
    from ..ingest.sources import is_images
    from ..pool import Pool

    before = Pool.open(path).n
    told: list[Counts] = []
    if is_images(src):
        chosen = options.for_images(f"and {src} holds images")
        with progress_line(None) as progress:
            grown = append_images(path, src, progress=progress, report=told.append, **chosen)
    else:
        grown = append_array(path, src, **options.for_array(f"options for images do not apply to the array {src}"))
    # None: an earlier call had done it, and this one has read nothing.
    count = told[0] if told else None
    facts = {"added": grown.n - before, **pool_facts(grown), **(count.to_json() if count else {})}
    known = "" if facts["added"] or count else f"; the pool has the items of {src} already"
    emit(
        facts, f"{path}: {grown.n - before:,} items added, {grown.n:,} in all{known}", *(count.lines() if count else [])
    )


@pool.command("compact")
@click.argument("path", metavar="POOL", type=POOL)
@click.option("--out", type=PATH, help="Write the compacted pool to this path; default: in place.")
@reporting
@as_json
def pool_compact(path: Path, out: Path | None) -> None:
    """Write the items and keys of POOL anew, in files of the size that a new pool would have.

    Ids, items, labels and fingerprint stay, so runs over POOL go on; stop them meanwhile. The disk needs room for both. After
    a kill POOL is the old one or the new one.
    """
    from ..ingest.compact import compact

    with progress_line(None, unit="rows") as progress:
        done = compact(path, out, progress)
    facts = {
        **pool_facts(done.pool),
        "files_before": done.files_before,
        "files": done.files,
        "forgotten_states": done.forgotten,
    }
    where = done.pool.path if out else path
    lines = [
        f"{where}: {done.pool.n:,} items, files of items and keys: {done.files_before:,} before, {done.files:,} now"
    ]
    if done.forgotten:
        lines.append(f"runs that scored it at one of its first {done.forgotten:,} sizes will not recognize it")
    emit(facts, *lines)


@pool.command("set")
@click.argument("path", metavar="POOL", type=POOL)
@click.option("--mean", callback=numbers, metavar=COMMA, help="Mean of each channel, with values scaled to [0, 1].")
@click.option(
    "--std", callback=numbers, metavar=COMMA, help="Standard deviation of each channel, with values scaled to [0, 1]."
)
@click.option("--unnormalized", is_flag=True, help="Take mean and standard deviation away.")
@click.option("--classes", callback=names, metavar=COMMA, help="Names of the classes, in the order of their numbers.")
@as_json
def pool_set(
    path: Path,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    unnormalized: bool,
    classes: tuple[str, ...] | None,
) -> None:
    """Change the normalization or the class names of POOL.

    Items, ids and labels stay; labels are numbers, and get the new names. A run scored with another mean or standard deviation cannot
    be resumed: score into another directory.
    """
    from ..pool import Pool, set_facts

    if unnormalized and (mean is not None or std is not None):
        raise click.UsageError("--unnormalized takes mean and std away: give it without --mean and --std")
    asked: dict[str, Any] = _given({"mean": mean, "std": std, "classes": classes})
    if unnormalized:
        asked = {**asked, "mean": None, "std": None}
    if not asked:
        raise click.UsageError("say what to change: --mean and --std, --unnormalized, or --classes")
    changed = set_facts(Pool.open(path), **asked)
    normalized = f"mean {formatted(changed.mean)}, std {formatted(changed.std)}"
    emit(pool_facts(changed), f"{path}: {normalized}, classes {', '.join(changed.classes or []) or '-'}")


@pool.command("exclude")
@click.argument("path", metavar="POOL", type=POOL)
@click.argument("items", metavar="ITEMS")
@click.option("--readmit", is_flag=True, help="Take the exclusion of ITEMS back.")
@as_json
def pool_exclude(path: Path, items: str, readmit: bool) -> None:
    """Exclude ITEMS of POOL from scoring and selection.

    ITEMS are ids (3,17,20-29), or a file: CSV, Parquet or JSON with a column id or key, or text with one id or key a line.
    """
    from ..pool import Pool, items_from

    opened = Pool.open(path)
    ids = items_from(opened, items)
    opened.set_excluded(ids, not readmit)
    excluded = int(opened.excluded.sum())
    facts = {"path": str(path), "given": len(ids), "excluded": excluded, "items": opened.n}
    done = "readmitted" if readmit else "excluded"
    emit(facts, f"{path}: {len(ids):,} items {done}, {excluded:,} of {opened.n:,} are excluded")


@pool.command("verify")
@click.argument("path", metavar="POOL", type=POOL)
@reporting
@as_json
def pool_verify(path: Path) -> None:
    """Read every chunk of POOL and list the damaged chunks; exit code 1 if there are any."""
    from ..pool import Pool
    from ..pool.verify import verify

    opened = Pool.open(path)
    with progress_line(None, unit="chunks") as progress:
        found = list(verify(opened, progress))
    chunks = sum(layout.chunks for layout, _ in opened.arrays())
    facts = {"path": str(path), "chunks": chunks, "damaged": [damage.__dict__ for damage in found]}
    if not found:
        emit(facts, f"{path}: all {chunks:,} chunks are readable and unchanged")
        return
    lines = [f"{d.array} chunk {d.chunk}, items {d.start_item}..{d.stop_item - 1}, {d.file}: {d.why}" for d in found]
    echo("\n".join(lines), err=True)
    text = f"{path}: {len(found):,} of {chunks:,} chunks are damaged; restore their files from a copy, or import again"
    fail(click.get_current_context(), FAILED, text, "PoolError", **facts)


@pool.command("info")
@click.argument("path", metavar="POOL", type=POOL)
@click.option("--contact-sheet", type=PATH, help="PNG file to draw up to 64 items in.")
@as_json
def pool_info(path: Path, contact_sheet: Path | None) -> None:
    """Describe POOL: items, labels, exclusions, classes, fingerprint, and the arrays on disk."""
    from ..pool import Pool
    from ..pool.pictures.contact_sheet import contact_sheet as write_sheet

    opened = Pool.open(path)
    facts = {**pool_facts(opened), **storage_facts(opened)}
    if contact_sheet is not None:
        facts["contact_sheet"] = str(contact_sheet)
        write_sheet(opened, contact_sheet)
    emit(facts, *described(facts), *lines(facts))
