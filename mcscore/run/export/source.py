"""What the writers of exports are given: where the rows come from, and the tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

    from .images import Images


@dataclass(frozen=True)
class Source:
    """Where the rows come from.

    Attributes:
        by: the score that orders them.
        model: a name of the model.
        likelihood: of the run.
        classes: names of the classes.
        images: where the pictures of the items are.
        texts: id -> text, where the items are to be shown as texts.
        facts: run, pool, and how a selection was chosen.
    """

    by: str
    model: str
    likelihood: str
    classes: tuple[str, ...] | None
    images: Images
    texts: dict[int, str] | None
    facts: dict[str, Any]

    def class_name(self, prediction: Any) -> str:
        """The name or number of a predicted class, the number of a regression."""
        if self.classes is not None and (number := self.class_number(prediction)) is not None:
            return self.classes[number]
        return f"{prediction:.6g}" if isinstance(prediction, float) else str(prediction)

    def class_number(self, prediction: Any) -> int | None:
        """The number of a predicted class; None where the pool has no such class, or a number was predicted."""
        known = isinstance(prediction, int) and (self.classes is None or prediction < len(self.classes))
        return prediction if known else None


# The columns id (int64), rank (only of a selection), key (only if the pool has keys), one per score and error that the run has
# (float32) and prediction; null where an item has no score.
Tables = Iterable["pyarrow.Table"]


def json_rows(table: pyarrow.Table, names: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield the rows with each value as JSON. Arrow writes the shortest digits that read back as the same float32."""
    import pyarrow
    import pyarrow.compute as pc

    columns = []
    for name in names:
        column = table[name]
        if pyarrow.types.is_string(column.type):
            columns.append([json.dumps(text) for text in column.to_pylist()])
        else:
            text = pc.fill_null(pc.cast(column, pyarrow.string()), "null")
            # Readers of JSON take -0 for the integer 0.
            columns.append(pc.replace_substring_regex(text, "^-0$", "-0.0").to_pylist())
    return zip(*columns, strict=True)


def json_objects(table: pyarrow.Table, names: dict[str, str]) -> list[str]:
    """Return the inside of a JSON object for each row: ``names`` says which column is written under which name."""
    fields = ", ".join(f'"{name}": %s' for name in names.values())
    return [fields % row for row in json_rows(table, list(names))]
