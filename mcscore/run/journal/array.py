"""The metadata of the array that the shards of a run are: what they must say, and what may stand beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ...fields import parse
from ..schema import JSON


def array_of(rows: Sequence[str], span: int, n: int) -> JSON:
    """The zarr.json of the array (rows, n items), as zarr-python writes it."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": [1, span],
        "codecs": [little, {"name": "crc32c"}],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [len(rows), n],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [len(rows), span]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN",
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {"scores": list(rows)},
        "dimension_names": ["score", "item"],
        "storage_transformers": [],
    }


def array_in(metadata: bytes) -> str | None:
    """The essential part of a zarr.json; None if it is no object of JSON."""
    try:
        found = parse(metadata)
    except ValueError:
        return None
    return essential(found) if isinstance(found, dict) else None


def essential(metadata: JSON) -> str:
    """What decides how the shards are read, as one text; other programs may write other things beside it."""
    attributes = metadata.get("attributes")
    names = attributes.get("scores") if isinstance(attributes, dict) else None
    # As text, because 1, 1.0 and true are equal in Python.
    return json.dumps([{name: metadata.get(name) for name in _ESSENTIAL}, names], sort_keys=True)


_ESSENTIAL = (
    *("zarr_format", "node_type", "shape", "data_type", "chunk_grid"),
    *("chunk_key_encoding", "fill_value", "codecs", "dimension_names"),
)
