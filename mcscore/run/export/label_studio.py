"""Tasks for Label Studio, with the prediction of the model as a pre-label, and the labeling configuration that belongs to them.

The item is named by ``item`` and ``key``, and its pool by ``pool``: Label Studio has an ``id`` of its own, which takes the place
of one in the data when it exports JSON-MIN, and these three come back as they are in every form of its exports.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO
from xml.sax.saxutils import quoteattr

from ...errors import RunError
from .source import Source, Tables, json_objects

if TYPE_CHECKING:
    import pyarrow

CONTROL = "label"  # the name of what is chosen, and so of its column in exports
_LISTED = 20  # classes that stand as buttons; more are a list to choose from
_NUMBERS = 10  # classes of a pool without names, at least


def write_tasks(file: BinaryIO, tables: Tables, source: Source) -> bytes:
    """Write a task for each item, and return the configuration.

    Label Studio's uncertainty sampling (and sorting by prediction score) takes the LOWEST prediction score first. So it gets
    1 / (1 + score): in (0, 1], falling as the score rises, whatever the range of the score (below 1e-15 all are 1).
    """
    before, top = "[\n", 0
    pool, shown = json.dumps(pool_mark(source.facts["pool"])), "image" if source.texts is None else "text"
    for table in tables:
        names = {"id": "item"} | {name: name for name in table.column_names if name not in ("id", "prediction")}
        predictions = table["prediction"].to_pylist()
        confidences = [1 / (1 + score) for score in table[source.by].to_pylist()]
        tasks = [
            f'{{"data": {{"{shown}": {json.dumps(seen)}, {row}, "prediction": {json.dumps(source.class_name(prediction))}, '
            f'"pool": {pool}}}, "predictions": [{{"model_version": {json.dumps(source.model)}, "score": {confidence!r}, '
            f'"result": {json.dumps(_result(prediction, source, shown))}}}]}}'
            for seen, row, prediction, confidence in zip(
                _shown(table, source), json_objects(table, names), predictions, confidences, strict=True
            )
        ]
        if tasks:
            file.write((before + ",\n".join(tasks)).encode())
            before = ",\n"
        top = max([top, *(source.class_number(each) or 0 for each in predictions)])
    file.write(b"[]\n" if before == "[\n" else b"\n]\n")
    classes = source.classes or tuple(map(str, range(max(_NUMBERS, top + 1))))
    return label_config(classes, source.likelihood, shown).encode()


def label_config(classes: tuple[str, ...], likelihood: str, shown: str) -> str:
    """Return the labeling configuration: an image or text, and the classes (one, or for bernoulli any number), or a number.

    >>> print(label_config(("cat", "<dog>"), "categorical", "image"), end="")
    <View>
      <!-- mcscore -->
      <Image name="image" value="$image" zoom="true" zoomControl="true"/>
      <Choices name="label" toName="image" choice="single" showInline="true">
        <Choice value="cat" hotkey="1"/>
        <Choice value="&lt;dog&gt;" hotkey="2"/>
      </Choices>
    </View>
    """
    seen = (
        '<Image name="image" value="$image" zoom="true" zoomControl="true"/>'
        if shown == "image"
        else '<Text name="text" value="$text"/>'
    )
    lines = ["<View>", f"  {MARK}", f"  {seen}"]
    if likelihood == "gaussian":
        lines.append(f'  <Number name="{CONTROL}" toName="{shown}"/>')
    else:
        choice = "multiple" if likelihood == "bernoulli" else "single"
        look = 'showInline="true"' if len(classes) <= _LISTED else 'layout="select"'
        lines.append(f'  <Choices name="{CONTROL}" toName="{shown}" choice="{choice}" {look}>')
        for at, name in enumerate(classes, 1):
            key = f' hotkey="{at}"' if at <= 9 else ""
            lines.append(f"    <Choice value={quoteattr(name)}{key}/>")
        lines.append("  </Choices>")
    return "\n".join([*lines, "</View>", ""])


MARK = "<!-- mcscore -->"


def pool_mark(fingerprint: str) -> str:
    """Return what a task says of the pool of its item: the beginning of the fingerprint.

    >>> pool_mark("sha256:0123456789abcdef0123456789abcdef")
    '0123456789abcdef'
    """
    return fingerprint.removeprefix("sha256:")[:16]


def _shown(table: pyarrow.Table, source: Source) -> list[str]:
    """The address of the picture of each item, or its text."""
    if source.texts is None:
        return source.images.addresses(table)
    ids = table["id"].to_pylist()
    for id in ids:
        if id not in source.texts:
            raise RunError(f"item {id} has no text: give the column of texts a row for it (--text FILE:COLUMN)")
    return [source.texts[id] for id in ids]


def _result(prediction: Any, source: Source, shown: str) -> list[dict[str, Any]]:
    """The prediction as it would be given by hand.

    None where it is no choice of the configuration, or where several labels may hold: the run has kept only the most probable one.
    """
    if source.likelihood == "gaussian":
        kind, value = "number", {"number": prediction}
    elif source.likelihood == "categorical" and source.class_number(prediction) is not None:
        kind, value = "choices", {"choices": [source.class_name(prediction)]}
    else:
        return []
    return [{"from_name": CONTROL, "to_name": shown, "type": kind, "value": value}]
