"""The arrays of a pool on disk: opened, checked against each other, read and fingerprinted."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoolError
from ..store.chunks import ChunkReader
from ..store.columns import Column
from ..store.encoded import EncodedReader, first_rows
from ..store.files import AnyPath
from ..store.fingerprint import described, fingerprint
from ..store.layout import ChunkLayout, layout_of
from .history import read_appends
from .kinds import MAIN
from .metadata import read_array, read_attributes
from .pictures.decode import decode
from .pictures.pixel_format import NO_BACKGROUND, PixelFormat
from .schema import FORMAT, VERSION, Attributes

_FILE_BYTES_MAX = 1 << 40  # of one chunk or shard: a thousand times what is written here


@dataclass(frozen=True)
class Storage:
    """What a pool has on disk.

    Attributes:
        path: the directory or URL.
        attributes: of the Zarr group.
        rows: the array of items or, where images are kept encoded, of their bytes.
        offsets: where each encoded image begins; None where items are stored as they are.
        labels: the columns of labels by name, the main one first.
        excluded: the column of flags.
        keys: the arrays of keys, by the first item they name.
        appends: the array of what was appended; None: there is none.
    """

    path: AnyPath
    attributes: Attributes
    rows: ChunkLayout
    offsets: ChunkLayout | None
    labels: dict[str, ChunkLayout]
    excluded: ChunkLayout
    keys: dict[int, ChunkLayout]
    appends: ChunkLayout | None

    @property
    def n(self) -> int:
        """How many items count."""
        return self.excluded.n

    @property
    def columns(self) -> dict[str, ChunkLayout]:
        """The main column of labels, as "labels", and that of the flags, "excluded"."""
        return {"labels": self.labels[MAIN], "excluded": self.excluded}

    def facts(self) -> Attributes:
        """Return the attributes, with names and lengths that an earlier release or other software did not record."""
        table = tuple((layout.folder.name, start, start + layout.n) for start, layout in self.keys.items())
        return replace(self.attributes, n=self.n, keys=table)

    def arrays(self) -> list[tuple[ChunkLayout, int]]:
        """Return (layout, first item) of every array."""
        columns = [(layout, 0) for layout in (*self.labels.values(), self.excluded)]
        keys = [(layout, start) for start, layout in self.keys.items()]
        items = [(self.offsets, 0), (self.rows, 0)] if self.offsets else [(self.rows, 0)]
        appends = [(self.appends, 0)] if self.appends else []
        return [*items, *columns, *keys, *appends]

    def states(self) -> dict[int, str | None]:
        """Return the hash of the items as it was before each append, by how many items there were."""
        return dict(self.attributes.earlier) | {one.n: one.content for one in read_appends(self.appends)}

    def reader(self, name_of: Callable[[int], str]) -> ChunkReader | EncodedReader:
        """Return a reader of items; ``name_of`` names an item in errors."""
        if self.offsets is None:
            return ChunkReader(self.rows)
        pixel_format = self.pixel_format
        return EncodedReader(self.rows, self.offsets, lambda data: decode(data, pixel_format), name_of)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the items, decoded."""
        return self.rows.dtype if self.offsets is None else self.pixel_format.dtype

    @property
    def pixel_format(self) -> PixelFormat:
        """What the pixels of the images are, or were, decoded to."""
        return PixelFormat.of_pool(self.attributes)

    def edges(self) -> np.ndarray:
        """Return (N + 1,) int64: where each encoded image begins in the blob, and where the last ends."""
        if self.offsets is None:
            raise PoolError(f"{self.path} keeps no encoded images, so it has no offsets")
        return Column(self.offsets)[:]

    def fingerprint_at(self, n: int) -> str | None:
        """Return the fingerprint that runs have of the first ``n`` items, also if the pool was compacted since.

        None if it never held exactly that many.
        """
        contents = self._contents(n)
        if n not in contents:
            return None
        fingerprint = self.fingerprint(n, contents[n])
        known = {(count, now): before for count, now, before in self.attributes.known_as}
        return known.get((n, fingerprint), fingerprint)

    def fingerprint(self, n: int, content: str | None) -> str:
        """Return the fingerprint of the first ``n`` items, whose hash was ``content``.

        Beside what store.fingerprint covers, item shape, mean and std enter, and the sha256 of all items as they were
        written: so it changes when a pool is made anew from other data or in another order, and with the normalization.
        Labels, exclusion flags, keys, class names, source and date do not enter: labeling must not end a run, and a copy
        is the same pool.
        """
        layouts = first_rows(self.rows, self.offsets, n) if self.offsets else [replace(self.rows, n=n)]
        return fingerprint(self._header(content), layouts)

    def identity(self, n: int) -> str | None:
        """Return a hash of what enters the fingerprint but for the files of items; None without a hash of the first ``n`` items."""
        if (content := self._contents(n).get(n)) is None:
            return None
        digest = hashlib.sha256(self._header(content))
        for layout in (self.rows, self.offsets):
            if layout is not None:
                digest.update(described(replace(layout, n=n)))
        return f"sha256:{digest.hexdigest()}"

    def _contents(self, n: int) -> dict[int, str | None]:
        """Return hashes of the items by how many there were, with that of the first ``n`` if the pool ever held as many."""
        return {n: self.attributes.content} if n == self.n else self.states()

    def _header(self, content: str | None) -> bytes:
        header = {
            "format": [FORMAT, VERSION],
            "content": content,
            "item_shape": self.attributes.item_shape,
            "mean": self.attributes.mean,
            "std": self.attributes.std,
            **(self._decoding() if self.offsets else {}),
        }
        return json.dumps(header, sort_keys=True).encode()

    def _decoding(self) -> dict[str, Any]:
        """What decides the pixels of encoded images beside their shape, where it is not what older pools had."""
        as_before = {
            "fit": (None, "crop"),
            "background": (None, NO_BACKGROUND),
            "value_range": (None, "type"),
            "depth": (None, 8),
        }
        return {
            name: value for name, before in as_before.items() if (value := getattr(self.attributes, name)) not in before
        }


def open_storage(path: AnyPath) -> Storage:
    """Open the arrays of a pool for reading.

    Raises:
        PoolError: there is no pool, or one of another format version; metadata are damaged; arrays are missing or do not
            match.
    """
    try:
        return _opened(path, read_attributes(path))
    except OSError as error:
        raise PoolError(f"{path} cannot be read: {error}") from error


def _opened(path: AnyPath, attributes: Attributes) -> Storage:
    rows = _layout(path, attributes, attributes.rows_name)
    n = rows.n if attributes.n is None else attributes.n
    labels = {one.name: _layout(path, attributes, one.array) for one in attributes.columns_of_labels}
    excluded = _layout(path, attributes, "excluded")
    lengths = {column.folder.name: column.n for column in (*labels.values(), excluded)}
    offsets = _layout(path, attributes, "offsets") if attributes.encoded else None
    lengths |= {"offsets": offsets.n - 1} if offsets else {"items": rows.n}
    # An append that was cut short leaves arrays that are longer than n. Without n they must agree.
    fits = all(length == n if attributes.n is None else length >= n for length in lengths.values())
    if rows.row_shape != (() if attributes.encoded else attributes.item_shape) or not fits:
        shape = (rows.n, *rows.row_shape)
        raise PoolError(
            f"{path} is a damaged pool: items {shape}, n {n}, item_shape {attributes.item_shape}, lengths {lengths}"
        )
    keys = {}
    for name, start, stop in _key_arrays(path, attributes, n):
        layout = _layout(path, attributes, name)
        if len(layout.row_shape) != 1 or layout.dtype != np.uint8 or not 0 <= stop - start <= layout.n or stop > n:
            raise PoolError(
                f"{path} is a damaged pool: {name} is {layout.dtype} {(layout.n, *layout.row_shape)} and has the keys of "
                f"items {start}..{stop} of {n}"
            )
        keys[start] = replace(layout, n=stop - start)
    appends = None
    if attributes.appends is not None:
        appends = _layout(path, attributes, "appends")
        if len(appends.row_shape) != 1 or appends.n < attributes.appends:
            raise PoolError(f"{path} is a damaged pool: appends has {appends.n} rows, {attributes.appends} are needed")
        appends = replace(appends, n=attributes.appends)
    return Storage(
        path,
        attributes,
        rows if offsets else replace(rows, n=n),
        None if offsets is None else replace(offsets, n=n + 1),
        {name: replace(column, n=n) for name, column in labels.items()},
        replace(excluded, n=n),
        keys,
        appends,
    )


def _key_arrays(path: AnyPath, attributes: Attributes, n: int) -> list[tuple[str, int, int]]:
    """Return (name, first item, item after the last) of the arrays of keys; earlier releases named them by appends."""
    if attributes.keys is not None:
        return list(attributes.keys)
    found = []
    for start, name in ((0, "keys"), *((start, f"keys-{start}") for start, _ in attributes.earlier)):
        try:
            found.append((name, start, min(n, start + int(read_array(path, name, None)["shape"][0]))))
        except FileNotFoundError:
            continue  # nothing appended then had a key
    return found


def _layout(path: AnyPath, attributes: Attributes, name: str) -> ChunkLayout:
    """Open one array, all of whose rows count."""
    import zarr
    from zarr.storage import LocalStore, StorePath

    recorded = dict(attributes.arrays or ())
    if attributes.arrays is not None and name not in recorded:
        raise PoolError(f"{path} is a damaged pool: its attribute 'arrays' does not have the array {name!r}")
    try:
        metadata = read_array(path, name, recorded.get(name))
    except FileNotFoundError as error:
        raise PoolError(
            f"{path} is a damaged pool: the array {name!r} is missing, {error.filename or error}"
        ) from error
    if isinstance(path, Path):
        where = StorePath(LocalStore(path, read_only=True), name)
    else:
        where = StorePath(path.store, (path / name).key)
    try:
        with _reading_pipeline():
            array: Any = zarr.Array.from_dict(where, metadata)
        layout = layout_of(array, path / name)
    except PoolError:
        raise
    except Exception as error:  # zarr and its codecs raise a dozen unrelated types
        raise PoolError(f"{path / name}/zarr.json is not understood: {type(error).__name__}: {error}") from error
    row_bytes = layout.dtype.itemsize * math.prod(layout.row_shape)
    if layout.rows_per_file * row_bytes > _FILE_BYTES_MAX:
        raise PoolError(
            f"{path / name}/zarr.json is damaged: the field 'chunk_grid' has chunks above {_FILE_BYTES_MAX} bytes"
        )
    return layout


def _reading_pipeline() -> Any:
    """Return zarr's configuration for arrays that only zarr can decode: the Rust pipeline where it is installed.

    For reading only: killed while writing, it leaves torn chunks that are visible.
    """
    import zarr

    found = importlib.util.find_spec("zarrs") is not None
    return zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"} if found else {})
