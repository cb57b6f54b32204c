"""A list of images as COCO has them for its unlabeled sets: info, images, categories, and no annotations.

A prediction is no annotation: COCO's are boxes and masks, and whoever reads the file would take it for a label. So it stands in the
record of its image, with the scores, in fields that readers of COCO pass over.
"""

from __future__ import annotations

import json
from typing import BinaryIO

from .images import size_of
from .source import Source, Tables, json_objects


def write_coco(file: BinaryIO, tables: Tables, source: Source) -> None:
    """Write the images: ``id`` is that of the item, ``file_name`` lies below the prefix or the directory of pictures."""
    info = {"description": source.model, **source.facts}
    file.write(f'{{"info": {json.dumps(info)},\n"images": ['.encode())
    before, top = "\n", -1
    for table in tables:
        numbers = [source.class_number(value) for value in table["prediction"].to_pylist()]
        rows = json_objects(table, {name: name for name in table.column_names if name != "prediction"})
        images = []
        for (name, path), row, number, label in zip(
            source.images.paths(table, "coco"), rows, numbers, table["prediction"].to_pylist(), strict=True
        ):
            width, height = size_of(path)
            size = f'"file_name": {json.dumps(name)}, "width": {width}, "height": {height}'
            said = json.dumps(label if number is None else source.class_name(number))
            images.append(f'{{{row}, {size}, "prediction": {said}}}')
        if images:
            file.write((before + ",\n".join(images)).encode())
            before = ",\n"
        top = max([top, *(number for number in numbers if number is not None)])
    names = source.classes or tuple(map(str, range(top + 1)))
    categories = [] if source.likelihood == "gaussian" else [{"id": at, "name": name} for at, name in enumerate(names)]
    file.write(f'\n],\n"categories": {json.dumps(categories)},\n"annotations": []}}\n'.encode())
