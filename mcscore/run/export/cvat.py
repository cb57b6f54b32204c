"""What CVAT reads: a manifest, the list of the images of a task, and annotations, the predictions as tags of these images."""

from __future__ import annotations

import json
import os
from typing import Any, BinaryIO
from xml.sax.saxutils import escape, quoteattr

from .images import size_of
from .source import Source, Tables, json_objects


def write_manifest(file: BinaryIO, tables: Tables, source: Source) -> None:
    """Write a dataset manifest: version and type, then a line for each image; the item and its scores are the image's ``meta``."""
    file.write(b'{"version": "1.1"}\n{"type": "images"}\n')
    for table in tables:
        names = [name for name in table.column_names if name != "prediction"]
        rows = json_objects(table, {name: "item" if name == "id" else name for name in names})
        for row, (name, path) in zip(rows, source.images.paths(table, "cvat-manifest"), strict=True):
            stem, suffix = os.path.splitext(name)
            width, height = size_of(path)
            said = (
                f'"name": {json.dumps(stem)}, "extension": {json.dumps(suffix)}, "width": {width}, "height": {height}'
            )
            file.write(f'{{{said}, "meta": {{"mcscore": {{{row}}}}}}}\n'.encode())


def write_annotations(file: BinaryIO, tables: Tables, source: Source) -> None:
    """Write annotations in CVAT's own form, "CVAT for images 1.1": a tag for each image, of source "auto"."""
    file.write(b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <!-- mcscore -->\n  <version>1.1</version>\n')
    if source.classes is not None:
        labels = "".join(
            f"        <label><name>{escape(name)}</name><type>tag</type><attributes></attributes></label>\n"
            for name in source.classes
        )
        file.write(f"  <meta>\n    <task>\n      <labels>\n{labels}      </labels>\n    </task>\n  </meta>\n".encode())
    at = 0
    for table in tables:
        predictions = table["prediction"].to_pylist()
        for (name, path), prediction in zip(source.images.paths(table, "cvat"), predictions, strict=True):
            width, height = size_of(path)
            lines = [f'  <image id="{at}" name={quoteattr(name)} width="{width}" height="{height}">']
            lines += [f"    {_tag(prediction, source)}"] if source.class_number(prediction) is not None else []
            file.write("\n".join([*lines, "  </image>", ""]).encode())
            at += 1
    file.write(b"</annotations>\n")


def _tag(prediction: Any, source: Source) -> str:
    return f'<tag label={quoteattr(source.class_name(prediction))} source="auto"></tag>'
