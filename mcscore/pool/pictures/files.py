"""An item as a file that a person can open: the image as it came where the pool keeps it, else its pixels as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...errors import ImageError, PoolError
from ...store.encoded import EncodedReader
from .containers import open_image
from .decode import whole_picture
from .pixels import finite, is_image, pixels

if TYPE_CHECKING:
    from ..pool import Pool

_STEP = 64  # items read at a time to find their range
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}  # of others: their name
_IN_BROWSERS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "AVIF")
_LONGEST = 4096  # pixels of the longer side of a picture that is made anew for a browser


class PictureFiles:
    r"""The items of a pool as picture files.

    Args:
        pool: has images.
        ids: (n,) int64, the items that are to be compared: floats outside [0, 1] are shown on the scale of all of them; None:
            all items of the pool.
        browser: give a picture that browsers do not show, such as TIFF, as PNG, too.

    Raises:
        PoolError: the items are no images, or Pillow is not installed.

    >>> import tempfile
    >>> from mcscore.pool import Pool
    >>> pool = Pool.create(tempfile.mkdtemp() + "/p", np.zeros((3, 1, 4, 6), np.uint8))
    >>> data, suffix = PictureFiles(pool).of(2)
    >>> data[:4], suffix
    (b'\x89PNG', '.png')
    """

    def __init__(self, pool: Pool, ids: npt.NDArray[np.int64] | None = None, *, browser: bool = False) -> None:
        self._pool, self._ids, self._browser = pool, ids, browser
        if not is_image(pool.item_shape, pool.dtype):
            raise PoolError(
                f"the items of {pool.path} are {pool.dtype} {pool.item_shape}, which are no images: there are no pictures of them"
            )
        try:
            import PIL  # noqa: F401
        except ImportError:
            raise PoolError("pictures need Pillow: pip install 'mcscore[images]'") from None

    def of(self, id: int) -> tuple[bytes, str]:
        """Return the file of an item, and the suffix of its name.

        Raises:
            ChunkError: the item cannot be read.
            ImageError: the pool keeps bytes of it that are no image.
        """
        if self._pool.storage.offsets is None:
            return _png(pixels(self._pool.take([id]), None if self._pool.dtype == np.uint8 else self._range)[0]), ".png"
        with self._pool.storage.reader(str) as reader:
            assert isinstance(reader, EncodedReader)
            data = reader.encoded(id)
        try:
            with open_image(data) as opened:
                kind = opened.format or ""
        except ImageError as error:
            raise ImageError(f"item {id} of {self._pool.path} is no image: {error}") from error
        if self._browser and kind not in _IN_BROWSERS:
            return _png(pixels(whole_picture(data, _LONGEST, self._pool.storage.pixel_format)[None])[0]), ".png"
        return data, _SUFFIXES.get(kind, f".{kind.lower()}")

    @cached_property
    def _range(self) -> tuple[float, float]:
        """The least and the greatest finite value of the items."""
        ids = range(self._pool.n) if self._ids is None else self._ids
        parts = (ids[at : at + _STEP] for at in range(0, len(ids), _STEP))
        return value_range(self._pool.take(np.asarray(part)) for part in parts)


def _png(image: np.ndarray) -> bytes:
    from PIL.Image import fromarray

    out = io.BytesIO()
    fromarray(np.ascontiguousarray(image)).save(out, "PNG")
    return out.getvalue()


def value_range(blocks: Iterable[np.ndarray]) -> tuple[float, float]:
    """Return the least and the greatest finite value of blocks of items; (0, 0) if there is none."""
    low, high = math.inf, -math.inf
    for block in blocks:
        values = finite(block)
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return (low, high) if low <= high else (0.0, 0.0)
