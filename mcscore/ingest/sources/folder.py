"""A folder of images: all below it, links followed, hidden names and Zarr data passed over and counted."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import PoolError
from ...labels import UNLABELED
from ...pool.pictures.containers import SUFFIXES
from ...pool.pictures.decode import MAX_BYTES, too_large
from .entry import HIDDEN, LINK_LOOP, ZARR, Entry, Position, Source, identity_of, key_problem, kind_problem, suffix_of
from .labels import LabelOptions, alphabet_remark, numbers_of

# Copies and thumbnails of images that other programs keep: macOS archives, Synology, Windows.
HIDDEN_NAMES = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
ZARR_MARKS = ("zarr.json", ".zarray", ".zgroup")
MAX_WAYS = 1000  # by which links may lead to one folder


@dataclass
class Listing:
    """What is below a folder: images with their size, those that cannot be used with the reason, and what was passed over.

    Attributes:
        images: (path from the folder, size in bytes, why it is refused or "").
        stats: by path, of the images.
        others: files that are no images, by path from the folder.
        passed: how many were passed over, by reason.
        folders: names of the folders directly in this one that are not hidden.
    """

    images: list[tuple[str, int, str]] = field(default_factory=list)
    stats: dict[str, os.stat_result | None] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)


def listed(root: Path) -> Listing:
    """List a folder.

    Raises:
        PoolError: the folder cannot be read; links lead to one folder by more than MAX_WAYS ways.
    """
    listing, ways = Listing(), Counter[tuple[int, int]]()
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while waiting:
        below, above = waiting.pop()
        here = root / below if below else root
        try:
            found = os.stat(here)
            with os.scandir(here) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError as error:
            if not below:
                raise PoolError(f"{here} cannot be listed: {error.strerror or error}") from error
            why = f"the folder cannot be listed, what it holds is lost: {error.strerror or error}"
            listing.images.append((below, 0, why))
            listing.stats[below] = None
            continue
        me = (found.st_dev, found.st_ino)
        if me in above:
            listing.passed[LINK_LOOP] += 1
            continue
        ways[me] += 1
        if ways[me] > MAX_WAYS:
            raise PoolError(f"{here}: links lead to this folder by more than {MAX_WAYS:,} ways; remove some of them")
        if below and any(name in ZARR_MARKS for name in names):
            listing.passed[ZARR] += 1
            continue
        if below and "/" not in below:
            listing.folders.append(below)
        for name in names:
            if name.startswith(".") or name in HIDDEN_NAMES:
                listing.passed[HIDDEN] += 1
                continue
            _add(listing, root, f"{below}/{name}" if below else name, waiting, (*above, me))
    listing.images.sort()
    listing.folders.sort()
    return listing


def _add(
    listing: Listing,
    root: Path,
    path: str,
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]],
    above: tuple[tuple[int, int], ...],
) -> None:
    """Add one name to a listing, or to the folders that wait to be listed."""
    found, problem = None, ""
    try:
        found = os.stat(root / path)
    except OSError as error:
        is_link = os.path.islink(root / path)
        problem = "it is a link that leads nowhere" if is_link else f"it cannot be read: {error.strerror or error}"
    if found and stat.S_ISDIR(found.st_mode):
        waiting.append((path, above))
        return
    is_image = path.lower().endswith(SUFFIXES)
    if not is_image and not (problem and "." not in path.rpartition("/")[2]):
        listing.others.append(path)
        listing.passed[suffix_of(path)] += 1
        return
    problem = problem or (found and kind_problem(found.st_mode)) or key_problem(path) or ""
    size = found.st_size if found else 0
    if not problem and size > MAX_BYTES:
        problem = str(too_large(size))
    listing.images.append((path, size, problem))
    listing.stats[path] = found


def open_folder(root: Path, listing: Listing, options: LabelOptions) -> Source:
    """Open the images that are listed.

    Raises:
        PoolError: no images; no class folders to take labels from, or one without images; a class that is not given.
    """
    if not listing.images:
        passed = ", ".join(f"{count:,} {why}" for why, count in listing.passed.most_common(5))
        raise PoolError(
            f"{root} holds no images ({', '.join(SUFFIXES)})" + (f"; passed over: {passed}" if passed else "")
        )
    classes, number, remarks = _class_folders(root, listing, options) if options.take else (None, {}, ())

    def entries(start: Position) -> Iterator[Entry]:
        for i, (name, size, problem) in enumerate(listing.images[start[1] :], start[1]):
            label = number.get(name.partition("/")[0], UNLABELED) if "/" in name else UNLABELED
            yield Entry((0, i), name, label, None if problem else root / name, problem or None, size)

    identity = identity_of((str(root / name), listing.stats[name]) for name, _, _ in listing.images)
    bad = tuple((name, problem) for name, _, problem in listing.images if problem)
    others = tuple(sorted(listing.passed.items()))
    return Source("folder", len(listing.images), identity, classes, entries, others, remarks, bad)


def _class_folders(
    root: Path, listing: Listing, options: LabelOptions
) -> tuple[list[str], dict[str, int], tuple[str, ...]]:
    holding = {name.partition("/")[0] for name, _, _ in listing.images if "/" in name}
    if not holding:
        raise PoolError(f"{root} has no class folders, so there are no labels to take")
    found = sorted(holding)
    for name in found:
        problem = key_problem(name)
        if problem:
            raise PoolError(f"{root} has a class folder that cannot name a class: {problem} ({name!r}). Rename it")
    empty = [name for name in listing.folders if name not in holding]
    if empty and options.classes is None:
        raise PoolError(
            f"{root / empty[0]} holds no images, so whether it is a class is open, and with it the numbers of the classes "
            f"({len(empty)} such folders): remove it, or name the classes in order with --classes"
        )
    classes, number = numbers_of(found, options.classes, root)
    return classes, number, alphabet_remark(classes) if options.classes is None else ()
