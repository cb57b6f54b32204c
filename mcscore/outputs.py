"""Where a verb may write a file that its caller names: nothing of other people, and nothing of a run or pool, is replaced.

What mcscore wrote is known by its content. So a file is replaced only by one of its kind, and everything else (another
program's file, a directory, a link, a device) stays, with an error that says what stands there.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from . import atomic
from .errors import Error
from .paths import is_directory, is_file, local_path
from .store.files import AnyPath, RemotePath, Where, open_binary, size_of
from .store.place import place_at

_OTHER = {
    stat.S_IFDIR: "a directory: name a file in it",
    stat.S_IFLNK: "a symbolic link: name the file itself",
    stat.S_IFIFO: "a FIFO: write to a file, and read that",
    stat.S_IFSOCK: "a socket: write to a file, and read that",
    stat.S_IFCHR: "a device: write to a file, and read that",
    stat.S_IFBLK: "a device: write to a file, and read that",
}
_OF_A_RUN = ("run.json", "lock", "commits", "scores.zarr", "screen", "skipped", "workers", "labels")


@contextlib.contextmanager
def named_output(
    path: Where, what: str, recognize: Callable[[BinaryIO], bool], error: type[Error]
) -> Iterator[BinaryIO]:
    """Open a file to write to that becomes ``path`` at the end, durable and whole, or leave all as it was.

    Args:
        path: the name that the caller chose; at a URL only one that mcscore gives a file in a run there.
        what: the kind of file, such as "an export".
        recognize: whether an open file is one of this kind that mcscore made.
        error: the class of the error that is raised.

    Raises:
        error: there is something at ``path`` that is not ``what``; or ``path`` belongs to a run or a pool.
        OSError: of the disk.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "mine").write_text("mine")
    >>> with named_output(folder / "mine", "an export", lambda file: False, Error): pass
    Traceback (most recent call last):
    mcscore.errors.Error: ... exists and is not an export that mcscore made; choose another name, or remove it
    """
    where = path if isinstance(path, RemotePath) else local_path(path, what, error)
    refuse_foreign(where, what, recognize, error)
    if isinstance(where, RemotePath):
        content = io.BytesIO()
        yield content
        place_at(where.parent).replace(where.name, content.getvalue())
        return
    with atomic.replaced(where) as file:
        yield file


def refuse_foreign(path: AnyPath, what: str, recognize: Callable[[BinaryIO], bool], error: type[Error]) -> None:
    """Raise ``error`` if writing to ``path`` would destroy something, see ``named_output``."""
    if isinstance(path, RemotePath):
        with contextlib.suppress(FileNotFoundError):
            _refuse_other(path, what, recognize, error)
        return
    if owner := owner_of(path):
        kind, above = owner
        beside = kind == "run" and above == Path(os.path.realpath(path.parent)) and not _is_reserved(path.name)
        if not beside:
            raise error(f"{path} would be in the {kind} {above}, among its files; choose another name for {what}")
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise error(f"{path} is {_OTHER.get(stat.S_IFMT(mode), 'no regular file')}; nothing was written")
    _refuse_other(path, what, recognize, error)


def _refuse_other(path: AnyPath, what: str, recognize: Callable[[BinaryIO], bool], error: type[Error]) -> None:
    with open_binary(path) as file:
        if size_of(path) and not recognize(file):
            raise error(f"{path} exists and is not {what} that mcscore made; choose another name, or remove it")


def owner_of(path: Path) -> tuple[str, Path] | None:
    """The run or pool that a file or directory of this name would be in, as ("run" or "pool", where it is)."""
    folder = Path(os.path.realpath(path.parent))
    return next(((kind, above) for above in (folder, *folder.parents) if (kind := _kind_of(above))), None)


def _kind_of(folder: Path) -> str | None:
    """Whether a directory is a run or a pool, even if its metadata is damaged."""
    if is_file(folder / "run.json") and (is_directory(folder / "commits") or is_directory(folder / "scores.zarr")):
        return "run"
    if is_file(folder / "zarr.json") and is_directory(folder / "labels"):
        return "pool" if any(is_directory(folder / name) for name in ("items", "blob")) else None
    return None


def _is_reserved(name: str) -> bool:
    return name in _OF_A_RUN or name.endswith((atomic.TEMPORARY, atomic.DISCARDED))
