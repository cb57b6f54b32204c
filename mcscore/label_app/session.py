"""What the page is told: the selected items with what the run says of them, the classes, and the labels as they are now."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RunError
from ..store.files import Where, local
from ..text import count
from .content import Content
from .labels import Log, OneLabel, SeveralLabels, exclude
from .watched import Watched

if TYPE_CHECKING:
    from ..pool import Pool
    from ..run import Run

_NUMBERS = 10  # classes of a pool without names, at least


class Session:
    """The labeling of one selection.

    Args:
        run: a run in a directory on this machine.
        pool: the pool that the run scored, on this machine; default: where the run says it is.
        selection: a selection of the run, its number or its file; default: the newest.
        several: whether an item may have several labels; default: if the run's likelihood is bernoulli.
        texts: id -> text to show of an item.

    Raises:
        RunError: there is no selection; run or pool are not on this machine; the run predicts numbers.
    """

    def __init__(
        self,
        run: Run,
        pool: Pool | None = None,
        selection: Where | int | None = None,
        *,
        several: bool | None = None,
        texts: dict[int, str] | None = None,
    ) -> None:
        from ..run.identity.match import find_pool
        from ..run.selecting.kept import probabilities_of, read_selection

        if run.meta["likelihood"] == "gaussian":
            raise RunError(
                f"{run.path} predicts numbers, and the page gives classes: write the numbers into a table, and set them with "
                "`mcscore pool label POOL TABLE --kind number`"
            )
        if not isinstance(run.path, Path):
            raise RunError(f"{run.path} is not on this machine: labels are logged in the run, so copy it here first")
        self.run, self.pool = run, find_pool(run, pool)
        local(self.pool.path, "label its items")
        if self.pool.label_columns["label"].kind == "number":
            raise RunError(
                f"labels of {self.pool.path} are numbers, and the page gives classes: set numbers with `mcscore pool label`"
            )
        self.file, table, how = read_selection(run, selection, self.pool)
        self._probabilities = probabilities_of(run, table)
        self.by: str = how["by"]
        self.ids = table["id"].to_numpy().astype(np.int64)
        self._known = set(self.ids.tolist())
        several = run.meta["likelihood"] == "bernoulli" if several is None else several
        self.log = Log(run.path, self.pool)
        classes = self.pool.classes
        self.labels: OneLabel | SeveralLabels = (
            SeveralLabels(self.log, classes, self.ids) if several else OneLabel(self.pool, self.log, self.ids)
        )
        self._excluded = Watched(self.pool.storage.columns["excluded"], self.ids)
        self.content = Content(self.pool, self.ids, texts)
        self._texts = texts

    def facts(self) -> dict[str, Any]:
        """Return all that the page needs at its start; JSON."""
        run = self.run
        return {
            "run": {"name": run.path.name, "id": run.meta["id"]},
            "selection": self.file.name,
            "by": self.by,
            "several": self.labels.several,
            "classes": self.pool.classes or self._numbers(),
            "named": self.pool.classes is not None,
            "kind": self.content.kind,
            "texts": self._texts is not None,
            "scores": [name for name in (self.by, *run.meta["scores"]) if name in run.columns],
            "items": self._items(),
            "states": self.states(),
        }

    def states(self) -> list[list[Any]]:
        """Return [label, excluded] of every item as it is now, in the order of the items."""
        return [list(pair) for pair in zip(self.labels.now(), self._excluded.now().tolist(), strict=True)]

    def give(self, id: Any, field: Any, had: Any, value: Any, window: Any) -> None:
        """Change one item; durable on return.

        Raises:
            Changed: it has neither ``had`` nor ``value``, but what another window or process gave it; nothing was done.
            RunError, PoolError: no such item, field or class.
        """
        if not isinstance(id, int) or isinstance(id, bool) or id not in self._known:
            raise RunError(f"item {id!r} is not in {self.file.name}")
        if field == "label":
            self.labels.give(id, had, value, str(window))
        elif field == "excluded" and isinstance(had, bool) and isinstance(value, bool):
            exclude(self.pool, self.log, id, had, value, str(window))
        else:
            raise RunError(f"{field!r} with {value!r} is nothing that an item can be given")

    def has(self, id: int) -> bool:
        """Whether the item is one of the selection."""
        return id in self._known

    def done(self) -> int:
        """Return how many items have a label by now."""
        return sum(label is not None for label in self.labels.now())

    def close(self) -> list[str]:
        """Write what belongs to the end, and return what is to be said."""
        done = f"{self.done():,} of {count(len(self.ids), 'item')} labeled"
        table = self.labels.write_table(self.pool) if isinstance(self.labels, SeveralLabels) else None
        if table is None:
            return [done]
        left_out = f"mcscore select {self.run.path} --leave-out {table}"
        return [done, f"{table}: the labels, which the pool has no place for; leave them out next time: {left_out} ..."]

    def _items(self) -> list[dict[str, Any]]:
        from ..run.selecting.guesses import guesses_of

        keys = self.pool.keys_of(self.ids)
        names = dict.fromkeys((self.by, *self.run.meta["scores"]))
        columns = {name: self.run.values(name, self.ids).tolist() for name in names}
        predictions = self.run.values("prediction", self.ids).tolist()
        guesses = guesses_of(self._probabilities)
        return [
            {
                "id": id,
                "key": None if keys is None else str(keys[at]),
                "scores": {name: _number(values[at]) for name, values in columns.items()},
                "prediction": None if predictions[at] < 0 else predictions[at],
                "guesses": None if guesses is None else guesses[at],
            }
            for at, id in enumerate(self.ids.tolist())
        ]

    def _numbers(self) -> list[str]:
        """Names of the classes of a pool that has none: their numbers, as far as any is known."""
        given = [each for label in self.labels.now() for each in (label if isinstance(label, list) else [label])]
        seen = [*self.run.values("prediction", self.ids).tolist(), *(each for each in given if each is not None)]
        return [str(number) for number in range(max(_NUMBERS, 1 + max(seen, default=0)))]


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
