"""A run and a pool in memory: what a report reads of them, with scores a test chooses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from mcscore.acquisition import SCORES

SPAN = 100


@dataclass
class FakeRun:
    path: Path
    values_of: dict[str, np.ndarray]  # scores and "prediction", (N,)
    meta: dict[str, Any]
    done: int
    nonfinite_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    unreadable_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    seconds: float = 4.0

    @property
    def n(self) -> int:
        return len(self.values_of["prediction"])

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name in self.values_of if name != "prediction")

    @property
    def complete(self) -> bool:
        return self.done == self.n

    @property
    def scored(self) -> int:
        return self.done

    @property
    def items_per_second(self) -> float:
        return self.done / self.seconds

    def spans(self, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, self.done, SPAN):
            ids = np.arange(start, min(start + SPAN, self.done))
            yield ids, self.values_of[name][ids]

    def values(self, name: str, ids: np.ndarray) -> np.ndarray:
        return self.values_of[name][ids]

    def select(
        self, ids: list[int], by: str, *, run: str = "r1", name: str = "selection-a.parquet", **how: Any
    ) -> Path:
        how = {"run": run, "by": by, "k": len(ids), "method": "radius", "radius": 1.5} | how
        scores = self.values_of[by][ids].astype(np.float32)
        table = pyarrow.table({"id": np.array(ids, np.int64), "rank": np.arange(len(ids)), "score": scores})
        pyarrow.parquet.write_table(table.replace_schema_metadata({"mcscore": json.dumps(how)}), self.path / name)
        return self.path / name


@dataclass
class FakePool:
    items: np.ndarray
    labels: np.ndarray
    keys: np.ndarray | None = None
    classes: list[str] | None = None
    source: str | None = "made up"
    path: Path = Path("pool.zarr")
    fingerprint: str = "sha256:pool"

    @property
    def n(self) -> int:
        return len(self.items)

    def check_files(self) -> None: ...

    @property
    def item_shape(self) -> tuple[int, ...]:
        return self.items.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self.items.dtype

    def keys_of(self, ids: np.ndarray) -> np.ndarray | None:
        return None if self.keys is None else np.asarray(self.keys)[ids]

    def take(self, ids: np.ndarray) -> np.ndarray:
        return self.items[ids]


Make = Callable[..., FakeRun]


@pytest.fixture
def make_run(tmp_path: Path) -> Make:
    """make_run(bald=..., entropy=..., prediction=..., **fields of run.json)."""

    def make(
        prediction: np.ndarray, *, done: int | None = None, likelihood: str = "categorical", **scores: np.ndarray
    ) -> FakeRun:
        meta = {
            "id": "r1",
            "created": "2026-05-04T03:02:01+00:00",
            "pool": {"path": str(tmp_path / "gone.zarr"), "fingerprint": "sha256:pool", "n": len(prediction)},
            "model": {"class": "net.Net", "fingerprint": "sha256:0123456789abcdef", "spec": None, "weights": None},
            "sites": [{"index": 0, "name": "body.drop", "kind": "dropout", "p": 0.25, "shape": [8, 8], "active": True}],
            "plan": {"items": 32, "passes": 50, "path": "vmap"},
            "versions": {"mcscore": "0.1.0", "torch": "2.13.0"},
            "passes": 50, "seed": 7, "masks": "independent", "likelihood": likelihood, "input": "logits", "device": "cpu",
            "dtype": "float32", "threads": 2, "scores": [name for name in scores if name in SCORES],
        }  # fmt: skip
        columns = {name: np.asarray(values, np.float32) for name, values in scores.items()}
        return FakeRun(tmp_path, {**columns, "prediction": prediction}, meta, len(prediction) if done is None else done)

    return make
