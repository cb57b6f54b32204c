"""A contact sheet: a few items of a pool as one picture."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from ..atomic import replace_file
from ..errors import PoolError
from ..store.decode import require_decoder
from .pool import Pool

SIDE, GAP = 96, 2  # pixels of a tile, and between tiles


def contact_sheet(pool: Pool, path: Path, count: int = 64) -> int:
    """Write a PNG of up to ``count`` items, spread evenly, as a grid; returns how many. Floats are stretched to their range.

    Raises:
        PoolError: items that are no images (H, W) or (1, 3 or 4 channels, H, W); an empty pool; Pillow is missing.
    """
    require_decoder()
    from PIL import Image

    shape = pool.item_shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3, 4)):
        raise PoolError(f"items of shape {shape} are no images: there is no contact sheet of them")
    if not pool.n:
        raise PoolError(f"{pool.path} has no items to show")
    items = pool.take(np.unique(np.linspace(0, pool.n - 1, min(count, pool.n)).astype(np.int64)))
    pixels = _as_bytes(items)
    columns = math.ceil(math.sqrt(len(pixels)))
    step = SIDE + GAP
    sheet = Image.new("RGB", (columns * step - GAP, math.ceil(len(pixels) / columns) * step - GAP), "white")
    for i, item in enumerate(pixels):
        planes = item if item.ndim == 2 else item[0] if item.shape[0] == 1 else np.moveaxis(item[:3], 0, -1)
        tile = Image.fromarray(np.ascontiguousarray(planes)).convert("RGB")
        scale = SIDE / max(tile.size)
        size = (max(1, round(tile.width * scale)), max(1, round(tile.height * scale)))
        # Enlarged pixels stay squares, so that it shows what the model sees.
        tile = tile.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
        place = (i % columns * step + (SIDE - size[0]) // 2, i // columns * step + (SIDE - size[1]) // 2)
        sheet.paste(tile, place)
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    replace_file(path, out.getvalue())
    return len(pixels)


def _as_bytes(items: np.ndarray) -> np.ndarray:
    if items.dtype == np.uint8:
        return items
    values = np.nan_to_num(items.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    return np.round((values - low) / (high - low or 1.0) * 255).astype(np.uint8)
