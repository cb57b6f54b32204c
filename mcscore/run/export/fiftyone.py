"""labels.json of a FiftyOneImageClassificationDataset.

fiftyone.Dataset.from_dir(data_path=IMAGES, labels_path=FILE, dataset_type=fiftyone.types.FiftyOneImageClassificationDataset)
"""

from __future__ import annotations

import json
from typing import BinaryIO

from .source import Source, Tables, json_objects


def write_fiftyone(file: BinaryIO, tables: Tables, source: Source) -> None:
    """Write absolute path -> predicted label, with the item and its columns as attributes."""
    file.write(b'{"labels": {')
    before = "\n"
    for table in tables:
        names = [name for name in table.column_names if name not in ("key", "prediction")]
        # An attribute "id" would take the place of the label's own.
        rows = json_objects(table, {name: "item" if name == "id" else name for name in names})
        labels = [source.class_name(value) for value in table["prediction"].to_pylist()]
        entries = [
            f'{json.dumps(path)}: {{"label": {json.dumps(label)}, "attributes": {{{row}}}}}'
            for (_, path), label, row in zip(source.images.paths(table, "fiftyone"), labels, rows, strict=True)
        ]
        if entries:
            file.write((before + ",\n".join(entries)).encode())
            before = ",\n"
    file.write(b"\n}}\n")
