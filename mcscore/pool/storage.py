"""The arrays of a pool on disk: opened, checked against each other, read and fingerprinted."""

from __future__ import annotations

import importlib.util
import json
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
from ..store.fingerprint import fingerprint
from ..store.layout import ChunkLayout, layout_of
from .decode import decode
from .schema import FORMAT, VERSION, Attributes, key_arrays, read_attributes


@dataclass(frozen=True)
class Storage:
    """What a pool has on disk.

    Attributes:
        path: the directory or URL.
        attributes: of the Zarr group.
        rows: the array of items or, where images are kept encoded, of their bytes.
        offsets: where each encoded image begins; None where items are stored as they are.
        columns: "labels" and "excluded".
        keys: the arrays of keys, by the first item they name.
    """

    path: AnyPath
    attributes: Attributes
    rows: ChunkLayout
    offsets: ChunkLayout | None
    columns: dict[str, ChunkLayout]
    keys: dict[int, ChunkLayout]

    @property
    def n(self) -> int:
        """How many items count."""
        return self.columns["labels"].n

    def arrays(self) -> list[tuple[ChunkLayout, int]]:
        """Return (layout, first item) of every array."""
        columns = [(layout, 0) for layout in self.columns.values()]
        keys = [(layout, start) for start, layout in self.keys.items()]
        items = [(self.offsets, 0), (self.rows, 0)] if self.offsets else [(self.rows, 0)]
        return [*items, *columns, *keys]

    def reader(self, name_of: Callable[[int], str]) -> ChunkReader | EncodedReader:
        """Return a reader of items; ``name_of`` names an item in errors."""
        if self.offsets is None:
            return ChunkReader(self.rows)
        channels, *size = self.attributes.item_shape
        shape, fit = (size[0], size[1]), self.attributes.fit or "crop"
        return EncodedReader(self.rows, self.offsets, lambda data: decode(data, shape, channels, fit), name_of)

    def edges(self) -> np.ndarray:
        """Return (N + 1,) int64: where each encoded image begins in the blob, and where the last ends."""
        if self.offsets is None:
            raise PoolError(f"{self.path} keeps no encoded images, so it has no offsets")
        return Column(self.offsets)[:]

    def fingerprint(self, n: int, content: str | None) -> str:
        """Return the fingerprint of the first ``n`` items, whose hash was ``content``.

        Beside what store.fingerprint covers, item shape, mean and std enter, and the sha256 of all items as they were
        written: so it changes when a pool is made anew from other data or in another order, and with the normalization.
        Labels, exclusion flags, keys, class names, source and date do not enter: labeling must not end a run, and a copy
        is the same pool.
        """
        header = {
            "format": [FORMAT, VERSION],
            "content": content,
            "item_shape": self.attributes.item_shape,
            "mean": self.attributes.mean,
            "std": self.attributes.std,
            # Only where it decides the pixels, and is not the default: older pools have none.
            **({"fit": self.attributes.fit} if self.offsets and self.attributes.fit not in (None, "crop") else {}),
        }
        layouts = first_rows(self.rows, self.offsets, n) if self.offsets else [replace(self.rows, n=n)]
        return fingerprint(json.dumps(header, sort_keys=True).encode(), layouts)


def open_storage(path: AnyPath) -> Storage:
    """Open the arrays of a pool for reading.

    Raises:
        PoolError: there is no pool, or one of another format version; arrays are missing or do not match.
    """
    import zarr

    attributes = read_attributes(path)
    try:
        group: Any = zarr.open_group(
            path if isinstance(path, Path) else path.store, mode="r", zarr_format=3, use_consolidated=False
        )
        with _reading_pipeline():
            array = group["blob" if attributes.encoded else "items"]
        n = array.shape[0] if attributes.n is None else attributes.n
        offsets = layout_of(group["offsets"], path / "offsets", n + 1) if attributes.encoded else None
        rows = layout_of(array, path / array.basename, None if offsets else n)
        columns = {name: layout_of(group[name], path / name, n) for name in ("labels", "excluded")}
        keys = {start: layout_of(group[name], path / name) for start, name in key_arrays(attributes) if name in group}
    except PoolError:
        raise
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise PoolError(f"{path} is a damaged pool: {type(error).__name__}: {error}") from error
    lengths = {name: column.array.shape[0] for name, column in columns.items()}
    if offsets is not None:
        lengths["offsets"] = offsets.array.shape[0] - 1
    else:
        lengths["items"] = array.shape[0]
    # An append that was cut short leaves arrays that are longer than n. Without n they must agree.
    fits = all(length == n if attributes.n is None else length >= n for length in lengths.values())
    if tuple(array.shape[1:]) != (() if attributes.encoded else attributes.item_shape) or not fits:
        raise PoolError(
            f"{path} is a damaged pool: items {array.shape}, item_shape {attributes.item_shape}, lengths {lengths}"
        )
    return Storage(path, attributes, rows, offsets, columns, keys)


def _reading_pipeline() -> Any:
    """Return zarr's configuration for arrays that only zarr can decode: the Rust pipeline where it is installed.

    For reading only: killed while writing, it leaves torn chunks that are visible.
    """
    import zarr

    found = importlib.util.find_spec("zarrs") is not None
    return zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"} if found else {})
