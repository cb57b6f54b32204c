"""Opening a source by what it is. SOURCES is the table of files; a folder is a source too."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...errors import PoolError
from .entry import Source, kind_problem, suffix_of
from .folder import ZARR_MARKS, listed, open_folder
from .labels import LabelOptions
from .parquet import open_parquet
from .patterns import files_of
from .tar import open_tars

SOURCES: tuple[tuple[tuple[str, ...], Callable[[list[Path], LabelOptions, str | None], Source]], ...] = (
    ((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"), open_tars),
    ((".parquet",), open_parquet),
)


def open_source(
    where: str | os.PathLike[str],
    labels: bool = False,
    column: str | None = None,
    classes: tuple[str, ...] | list[str] | None = None,
    reading: str | None = None,
) -> Source:
    """Open a source of images.

    Args:
        where: a folder of images, or one that holds only tars or only Parquet files; tars (a glob, or {000..127}), or
            Parquet files (the same).
        labels: take labels from class folders, ``.cls`` members, or the column "label".
        column: the Parquet column of images (default: the one that has structs of {bytes, path}); in tars the extension of
            the images to take, where a sample has several.
        classes: names of the classes in order; default: those of the source.
        reading: whether labels of digits are "names" or "numbers"; needed only where both are possible and differ.

    Raises:
        PoolError: nothing is there; files of an unknown kind; nothing to take labels from; a class that is not among
            ``classes``.
    """
    text = os.fspath(where)
    options = LabelOptions(labels, None if classes is None else tuple(str(name) for name in classes), reading)
    options.reader()  # checks the reading
    if os.path.isdir(text):
        return _open_folder(Path(text), options, column)
    files = files_of(text)
    for suffixes, make in SOURCES:
        if all(file.name.lower().endswith(suffixes) for file in files):
            _check_files(files)
            return make(files, options, column)
    known = tuple(suffix for suffixes, _ in SOURCES for suffix in suffixes)
    other = [file for file in files if not file.name.lower().endswith(known)] or files
    raise PoolError(
        f"{text} is neither a folder nor files that all end in one of {', '.join(known)}: {other[0]} is one of "
        f"{len(other)} that do not" + (_HINTS.get(other[0].suffix.lower(), ""))
    )


def _check_files(files: list[Path]) -> None:
    """Check that files can be opened without waiting for what is at the other end of a FIFO."""
    for file in files:
        try:
            problem = kind_problem(os.stat(file).st_mode)
        except OSError as error:
            problem = error.strerror or str(error)
        if problem:
            raise PoolError(f"{file} cannot be imported: {problem}")


_HINTS = {
    ".zip": ". Unpack the archive, and import the folder",
    ".npy": ". It is an array: leave --size out",
    ".npz": ". It is an array: leave --size out",
}


def _open_folder(root: Path, options: LabelOptions, column: str | None) -> Source:
    if any((root / name).exists() for name in ZARR_MARKS):
        raise PoolError(f"{root} is a Zarr array or group, not a folder of images: leave --size out")
    listing = listed(root)
    if not listing.images:
        for suffixes, make in SOURCES:
            files = [name for name in listing.others if name.lower().endswith(suffixes)]
            if files:
                paths = [root / name for name in sorted(files)]
                _check_files(paths)
                source = make(paths, options, column)
                passed = listing.passed.copy()
                for name in files:
                    passed[suffix_of(name)] -= 1
                return replace(source, passed=tuple(sorted((+passed).items())))
    if column is not None:
        raise PoolError(
            f"column={column!r} (--column) belongs to Parquet files and tars, and {root} is a folder of images"
        )
    return open_folder(root, listing, options)


def is_images(where: str | os.PathLike[str]) -> bool:
    """Tell whether open_source reads ``where``: a folder that is not a Zarr array, tars or Parquet files."""
    text = os.fspath(where)
    if os.path.isdir(text):
        return not any(os.path.exists(os.path.join(text, name)) for name in ZARR_MARKS)
    return text.lower().endswith(tuple(suffix for suffixes, _ in SOURCES for suffix in suffixes))
