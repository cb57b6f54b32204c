"""What a person sees of an item: its picture, its text, or its numbers, as they are in the pool."""

from __future__ import annotations

import io
import math
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ..pool.pictures.decode import whole_picture
from ..pool.pictures.files import value_range
from ..pool.pictures.pixels import is_image, pixels
from ..store.encoded import EncodedReader

if TYPE_CHECKING:
    from ..pool import Pool

Kind = Literal["image", "text", "vector", "numbers"]

LONGEST = 2048  # pixels of the longer side of a picture
MOST_NUMBERS = 4096  # of an item that are sent to the page; a longer vector is shown by the extremes of its stretches
_STEP = 64  # items read at a time to find their range


class Content:
    """The chosen items of a pool, as the page shows them.

    Args:
        pool: has the items.
        ids: (n,) int64, those that can be asked for.
        texts: id -> text to show beside or instead of the numbers of an item.
    """

    def __init__(self, pool: Pool, ids: npt.NDArray[np.int64], texts: dict[int, str] | None = None) -> None:
        self._pool, self._ids, self._texts = pool, ids, texts
        self._reading = threading.Lock()  # only one thread looks through all items for their kind and range

    @cached_property
    def kind(self) -> Kind:
        """How the items are shown, which is the same for all.

        Bytes, (L,) uint8, are text where every item is printable UTF-8 padded with zero bytes.
        """
        shape, dtype = self._pool.item_shape, self._pool.dtype
        if is_image(shape, dtype):
            return "image"
        if self._texts is not None:
            return "text"
        if len(shape) == 1 and dtype == np.uint8 and self._all_text():
            return "text"
        return "vector" if len(shape) == 1 or (len(shape) == 2 and shape[0] == 1) else "numbers"

    def png(self, id: int) -> bytes:
        """Return the picture of an item as PNG: the whole image where the pool keeps the file, else its pixels.

        Raises:
            ChunkError: the item cannot be read.
            ImageError: it cannot be decoded.
        """
        from PIL.Image import fromarray

        if self._pool.storage.offsets is not None:
            image = pixels(whole_picture(self._file(id), LONGEST, self._pool.storage.pixel_format)[None])[0]
        else:
            image = pixels(self._pool.take([id]), self._range if self._pool.dtype != np.uint8 else None)[0]
        out = io.BytesIO()
        fromarray(np.ascontiguousarray(image)).save(out, "PNG", compress_level=1)
        return out.getvalue()

    def facts(self, id: int) -> dict[str, Any]:
        """Return what the page draws of an item that is no image.

        text: {"kind", "text"}; vector: {"kind", "values", "low", "high", "n"}, low and high of all items; numbers: {"kind",
        "shape", "values", "n"}, the first of them.

        Raises:
            ChunkError: the item cannot be read.
        """
        if self.kind == "text" and self._texts is not None:
            return {"kind": "text", "text": self._texts.get(id, "")}
        item = self._pool.take([id])[0]
        if self.kind == "text":
            return {"kind": "text", "text": _text_of(item) or ""}
        flat = item.ravel().astype(np.float64)
        if self.kind == "vector":
            low, high = self._range
            return {"kind": "vector", "values": _json(_extremes(flat)), "low": low, "high": high, "n": len(flat)}
        shape = list(self._pool.item_shape)
        return {"kind": "numbers", "shape": shape, "values": _json(flat[:MOST_NUMBERS]), "n": len(flat)}

    @cached_property
    def _range(self) -> tuple[float, float]:
        """The least and the greatest finite value of all chosen items."""
        with self._reading:
            return value_range(self._pool.take(self._ids[at : at + _STEP]) for at in range(0, len(self._ids), _STEP))

    def _all_text(self) -> bool:
        texts = (
            _text_of(item)
            for at in range(0, len(self._ids), _STEP)
            for item in self._pool.take(self._ids[at : at + _STEP])
        )
        found = False
        for text in texts:
            if text is None:
                return False
            found = found or bool(text.strip())
        return found

    def _file(self, id: int) -> bytes:
        """The encoded image of an item."""
        with self._pool.storage.reader(str) as reader:
            assert isinstance(reader, EncodedReader)
            return reader.encoded(id)


def _text_of(item: np.ndarray) -> str | None:
    """The text in the bytes of an item, without the zero bytes after it; None if it is none."""
    try:
        text = item.tobytes().rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if all(letter.isprintable() or letter in "\n\t\r" for letter in text) else None


def _extremes(values: np.ndarray) -> np.ndarray:
    """The values, or of more than MOST_NUMBERS the least and greatest of each stretch."""
    if len(values) <= MOST_NUMBERS:
        return values
    return np.array([f(part) for part in np.array_split(values, MOST_NUMBERS // 2) for f in (np.min, np.max)])


def _json(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]
