"""A contact sheet: a few items of a pool as one picture."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import PoolError
from ...outputs import named_output
from ..pool import Pool
from .decode import require_decoder
from .pixels import is_image, pixels, thumbnail

SIDE, GAP = 96, 2  # pixels of a tile, and between tiles


def contact_sheet(pool: Pool, path: Path, count: int = 64) -> int:
    """Write a PNG of up to ``count`` items, spread evenly, as a grid; returns how many.

    Raises:
        PoolError: the items are no images (see pictures.is_image); the pool is empty; Pillow is missing; there is something
            else at ``path``.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> pool = Pool.create(folder / "p", np.zeros((9, 1, 8, 8), np.uint8))
    >>> contact_sheet(pool, folder / "sheet.png", count=4)
    4
    """
    require_decoder()
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    if not is_image(pool.item_shape, pool.dtype):
        raise PoolError(
            f"{pool.dtype} items of shape {pool.item_shape} are no images: there is no contact sheet of them"
        )
    if not pool.n:
        raise PoolError(f"{pool.path} has no items to show")
    images = pixels(pool.take(np.unique(np.linspace(0, pool.n - 1, min(count, pool.n)).astype(np.int64))))
    columns = math.ceil(math.sqrt(len(images)))
    step = SIDE + GAP
    sheet = Image.new("RGB", (columns * step - GAP, math.ceil(len(images) / columns) * step - GAP), "white")
    for i, image in enumerate(images):
        tile = thumbnail(image, SIDE, enlarge=True).convert("RGB")
        left, top = (SIDE - tile.width) // 2, (SIDE - tile.height) // 2
        sheet.paste(tile, (i % columns * step + left, i // columns * step + top))
    out = io.BytesIO()
    made_by = PngInfo()
    made_by.add_text("Software", "mcscore")
    sheet.save(out, "PNG", optimize=True, pnginfo=made_by)
    with named_output(path, "a contact sheet", _is_sheet, PoolError) as file:
        file.write(out.getbuffer())
    return len(images)


def _is_sheet(file: BinaryIO) -> bool:
    start = file.read(256)
    return start.startswith(b"\x89PNG") and b"tEXtSoftware\0mcscore" in start
