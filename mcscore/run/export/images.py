"""Where the pictures of exported items are: at a prefix and the key, or in a directory to which they are written."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ... import atomic
from ...errors import ImageError, RunError
from ...paths import is_file, local_path
from ...pool.pictures import containers

if TYPE_CHECKING:
    import pyarrow

    from ...pool import Pool
    from ..journal import Values

_STEM_MAX = 80  # letters of a key that stand in the name of its file
_WEB = ("", "http", "https")


class Images:
    """The pictures of the items of an export.

    Args:
        prefix: put before a name to make an address or a path of it.
        folder: where pictures are written; None: they lie where the prefix says, under the keys.
        pool: has the items.
        ids: (n,) the items that are exported; None: all.
        browser: the pictures that are written are for a browser.

    Raises:
        RunError: ``folder`` is a URL, or no directory.
        PoolError: pictures are to be written, and the items are no images.
    """

    def __init__(
        self,
        prefix: str,
        folder: str | os.PathLike[str] | None,
        pool: Pool | None,
        ids: Values | None,
        *,
        browser: bool = False,
    ) -> None:
        self.prefix, self.folder = prefix, None if folder is None else local_path(folder, "pictures", RunError)
        self._files = None
        self._written: list[Path] = []
        if self.folder is not None:
            assert pool is not None
            from ...pool.pictures.files import PictureFiles

            self._files = PictureFiles(pool, ids, browser=browser)
            try:
                atomic.create_directory(self.folder)
            except OSError as error:
                raise RunError(f"pictures cannot be written to {self.folder}: {error}") from error

    def names(self, table: pyarrow.Table) -> list[str]:
        """Return what the picture of each item is called below the prefix: its key, or the file that is written here."""
        keys: list[Any] = table["key"].to_pylist() if "key" in table.column_names else [None] * len(table)
        if self._files is None:
            return keys
        return [self._write(*row) for row in zip(table["id"].to_pylist(), keys, strict=True)]

    def addresses(self, table: pyarrow.Table) -> list[str]:
        """Return the URL of the picture of each item."""
        return [address(self.prefix, name) for name in self.names(table)]

    def paths(self, table: pyarrow.Table, format: str) -> list[tuple[str, str]]:
        """Return (name, absolute path) of the picture of each item, a file on this machine.

        Raises:
            RunError: there is no such file.
        """
        before = f"{self.folder}{os.sep}" if self.folder is not None else self.prefix
        found = [(name, os.path.abspath(before + name)) for name in self.names(table)]
        for name, path in found:
            if self._files is None and not is_file(Path(path)):
                raise RunError(
                    f"{path} is not a file, and {format} names files of pictures: say what to put before the key {name!r} with prefix "
                    "(--prefix FOLDER/), or have the pictures written with images (--images DIR)"
                )
        return found

    def sync(self) -> None:
        """Make the pictures that were written durable: all at the end, which took a third of the time of each by itself.

        Raises:
            OSError: of the disk.
        """
        for file in self._written:
            atomic.sync(file)
        if self._written:
            atomic.sync(self._written[0].parent)
        self._written.clear()

    def _write(self, id: int, key: str | None) -> str:
        """Write the picture of an item, unless it is there, and return the name of its file."""
        assert self._files is not None
        assert self.folder is not None
        data, suffix = self._files.of(id)
        file = self.folder / f"{id}{stem_of(key)}{suffix}"
        try:
            if is_file(file):
                if file.read_bytes() != data:
                    raise RunError(f"{file} exists and has another content; choose another directory, or remove it")
            else:
                atomic.show_file(file, data)
                self._written.append(file)
        except OSError as error:
            raise RunError(f"{file} could not be written: {error}") from error
        return file.name


def stem_of(key: str | None) -> str:
    """Return what a file name says of a key, for people: only letters that need no quotes, in any address or shell.

    >>> stem_of("shard-3.tar/cat+dog #1.JPEG"), stem_of("é/.."), stem_of(None)
    ('-cat_dog_1', '', '')
    """
    name = re.sub(r"[^0-9A-Za-z]+", "_", Path(key or "").stem).strip("_")[:_STEM_MAX]
    return f"-{name}" if name else ""


def address(prefix: str, key: str) -> str:
    """Return the URL of an item; a key that is a URL itself stays as it is.

    In addresses of the web (http, https, or relative ones) the key is percent-encoded, as the browser and Label Studio's server
    decode it. Of s3:// and its like Label Studio takes the rest as the name of the object, literally.

    >>> address("/data/local-files/?d=img/", "cat+dog #1.png")
    '/data/local-files/?d=img/cat%2Bdog%20%231.png'
    >>> address("s3://bucket/", "cat+dog #1.png")
    's3://bucket/cat+dog #1.png'
    """
    if not prefix and "://" in key:
        return key
    scheme = prefix.partition("://")[0].lower() if "://" in prefix else ""
    return prefix + (quote(key, safe="/") if scheme in _WEB else key)


def size_of(path: str) -> tuple[int, int]:
    """Return (width, height) of a picture as it is shown, turned as EXIF says.

    Raises:
        RunError: it is no picture that Pillow knows, or Pillow is not installed.
    """
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise RunError("the sizes of pictures are read with Pillow: pip install 'mcscore[images]'") from None
    try:
        return containers.size_of(Path(path))
    except (OSError, ValueError, SyntaxError, ImageError) as error:
        raise RunError(f"the size of {path} cannot be read: {error}") from error
