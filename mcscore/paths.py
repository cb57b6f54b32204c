"""What is at a path, told apart from what cannot be asked: only "no such file" means missing.

``Path.exists``, ``glob``, ``os.walk`` and their like take some errors of the disk (all of them, in newer Pythons) for an
empty answer, so that a bad sector or a directory without permission looks like a run that was never begun. Here every
other error is raised.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from pathlib import Path

# Path("s3://bucket/run") has one slash less; no local folder is called "s3:" on purpose.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def is_url(where: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL, such as s3://bucket/run.

    >>> is_url("s3://bucket/run"), is_url("runs/first")
    (True, False)
    """
    return "://" in os.fspath(where)


def local_path(where: str | os.PathLike[str], what: str, error: type[Exception]) -> Path:
    """Return the path of something that is written to a local disk. Raises ``error``, naming ``what``, for any URL but file://.

    >>> local_path("file:///data/run", "a run", ValueError)
    PosixPath('/data/run')
    """
    text = os.fspath(where)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    if found := _URL.match(text):
        made = "" if is_url(text) else f"; a Path loses a slash of {found[1]}://, so give a URL as text"
        raise error(f"{text} is no local path, and {what} cannot be written there{made}")
    return Path(where)


def exists(path: Path) -> bool:
    """Whether there is anything at ``path``; a link is followed.

    >>> exists(Path("/")), exists(Path("/no/such/file"))
    (True, False)
    """
    return status_of(path) is not None


def is_file(path: Path) -> bool:
    """Whether there is a regular file at ``path``; a link is followed."""
    status = status_of(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def is_directory(path: Path) -> bool:
    """Whether there is a directory at ``path``; a link is followed."""
    status = status_of(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def names_in(directory: Path, pattern: str = "*") -> list[str]:
    """The names in a directory that match, sorted; none if there is no directory.

    >>> names_in(Path("/no/such/directory"))
    []
    """
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))


def files_below(directory: Path) -> list[Path]:
    """All that is no directory in ``directory`` and the ones below it, sorted; links are not followed."""
    found: list[Path] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            path = Path(entry.path)
            found += files_below(path) if entry.is_dir(follow_symlinks=False) else [path]
    return sorted(found)


def status_of(path: Path, *, follow: bool = True) -> os.stat_result | None:
    """The status of what is at a path, or of a link itself; None if there is nothing."""
    try:
        return os.stat(path, follow_symlinks=follow)
    except (FileNotFoundError, NotADirectoryError):
        return None
