"""From sources (arrays, folders of images, tars, Parquet) to pools."""

from .append import append_array, append_blocks, append_images
from .array_formats import ARRAY_FORMATS
from .arrays import import_array
from .images import import_images

__all__ = ["ARRAY_FORMATS", "append_array", "append_blocks", "append_images", "import_array", "import_images"]
