"""What `mcscore pool info` and its like show of a pool."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def formatted(value: Any) -> str:
    """Return a value as text: integers with separators, a dash for None."""
    return (
        "-" if value is None else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    )


def described(facts: dict[str, Any]) -> Iterator[str]:
    """Yield a line of text for each fact but the arrays, and for each column of labels."""
    for name, value in facts.items():
        if name == "label_columns":
            for column, about in value.items():
                of = f" ({', '.join(about['classes'])})" if "classes" in about else ""
                kind = "numbers" if about["kind"] == "number" else "classes"
                yield f"{'labels':14} {column}: {about['labeled']:,} {kind}{of}"
        elif name == "pixels":
            yield f"{name:14} {', '.join(f'{option} {given}' for option, given in value.items())}"
        elif name != "arrays":
            yield f"{name:14} {formatted(value)}"


def lines(facts: dict[str, Any]) -> Iterator[str]:
    """Yield a line of text for each array."""
    yield "on disk"
    for name, array in facts["arrays"].items():
        shard = f" in shards of {array['shard']:,}" if array["shard"] else ""
        shape = " x ".join(map(str, array["shape"]))
        yield (
            f"  {name:12} {array['dtype']} {shape}, chunks of {array['chunk']:,}{shard}, {' '.join(array['codecs'])}, "
            f"{array['files']:,} files, {array['bytes']:,} bytes"
        )


def pool_facts(pool: Any) -> dict[str, Any]:
    """Return what a pool holds."""
    from ..labels import has_label

    return {
        "path": str(pool.path),
        "items": pool.n,
        "item_shape": list(pool.item_shape),
        "dtype": str(pool.dtype),
        "labeled": int(pool.labeled.sum()),
        "label_columns": {
            one.name: {
                "kind": one.kind,
                "labeled": int(has_label(pool.labels_of(one.name)).sum()),
                **({} if one.classes is None else {"classes": list(one.classes)}),
            }
            for one in pool.label_columns.values()
        },
        "excluded": int(pool.excluded.sum()),
        "keys": pool.has_keys,
        "classes": pool.classes,
        "mean": pool.mean,
        "std": pool.std,
        "source": pool.source,
        "fingerprint": pool.fingerprint,
    }


def storage_facts(pool: Any) -> dict[str, Any]:
    """Return how the arrays of a pool lie on disk."""
    from ..store.files import size_of

    arrays = {}
    for layout, _ in pool.arrays():
        sizes = []
        for number in range(layout.files):
            with contextlib.suppress(FileNotFoundError):  # `verify` reports missing files
                sizes.append(size_of(layout.file(number)))
        arrays[layout.folder.name] = {
            "shape": [layout.n, *layout.row_shape],
            "dtype": str(layout.dtype),
            "chunk": layout.chunk,
            "shard": layout.shard,
            "codecs": layout.codecs,
            "files": len(sizes),
            "bytes": sum(sizes),
        }
    attributes = pool.storage.attributes
    pixels = {name: getattr(attributes, name) for name in ("fit", "background", "value_range", "depth")}
    share = float(pool.labeled.mean()) if pool.n else 0.0
    return {
        "labeled_share": round(share, 6),
        "created": pool.created,
        **({"pixels": pixels} if attributes.fit else {}),
        "bytes": sum(array["bytes"] for array in arrays.values()),
        "arrays": arrays,
    }
