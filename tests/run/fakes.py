"""A pool and a scorer in a few lines of NumPy. What the scorer gives depends on its plan and on which items come
together, as the last bits of matrix products do: a run that is not taken up exactly as it was begun shows."""

from __future__ import annotations

import copy
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mcscore import fields
from mcscore.errors import ChunkError
from mcscore.fields import unsealed
from mcscore.jackknife import columns
from mcscore.pool import Batch
from mcscore.pool.schema import LabelColumn
from mcscore.run import score_pool
from mcscore.run.run import Run

from ..processes import Child
from ..steps import at_step, half, killed_at

__all__ = ["at_step", "half", "killed_at"]  # used with what follows

N, SPAN = 100, 40  # three spans, the last one partial; blocks of 16


class FakePool:
    """Of n items. It held those in ``before`` (number: fingerprint) until it was appended to; those in ``bad`` cannot be read."""

    item_shape, dtype, mean, std, keys, fingerprinted = (4,), np.dtype(np.float32), None, None, None, None
    classes = None
    label_columns: ClassVar = {"label": LabelColumn()}

    def __init__(self, n: int = N, path: str = "pool", fingerprint: str = "sha256:pool") -> None:
        self.n, self.path, self.fingerprint = n, Path(path), fingerprint
        self.labels, self.excluded = np.full(n, -1, np.int32), np.zeros(n, bool)
        self.before: dict[int, str] = {}
        self.bad: list[tuple[int, int]] = []
        self.opened = self.closed = 0

    def fingerprint_at(self, n: int) -> str | None:
        return {**self.before, self.n: self.fingerprint}.get(n)

    def identity(self, n: int | None = None) -> str | None:
        return self.fingerprint_at(n or self.n)

    def check_files(self) -> None: ...

    def marks(self) -> object:
        return self.fingerprint

    def reopened(self) -> FakePool:
        return self

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start * 4, stop * 4, dtype=np.float32).reshape(-1, 4)

    def keys_of(self, _ids: np.ndarray) -> None: ...

    def column(self, name: str) -> np.ndarray:
        return getattr(self, name)

    def blocks(
        self, ranges: Iterable[tuple[int, int]], prefetch: int = 2, on_bad_chunk: str = "raise", allocate: Any = None
    ) -> Iterator[Batch]:
        self.opened += 1
        try:
            for start, stop in ranges:
                bad = [
                    ChunkError(f"items {a}..{b - 1} cannot be read, chunk 7 of c.7", max(a, start), min(b, stop))
                    for a, b in self.bad
                    if a < stop and start < b
                ]
                if bad and on_bad_chunk == "raise":
                    raise bad[0]
                items = self.read(start, stop)
                for error in bad:
                    items[error.start - start : error.stop - start] = 0
                yield Batch(np.arange(start, stop), items, tuple(bad))
        finally:
            self.closed += 1


def grown(n: int, *before: int) -> FakePool:
    """The standard pool after it was appended to, to hold n items (and ``before`` in between)."""
    pool = FakePool(n, fingerprint=f"sha256:pool of {n}")
    pool.before = {N: "sha256:pool", **{m: f"sha256:pool of {m}" for m in before}}
    return pool


class Column:
    """As much of a tensor as a run uses."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def detach(self) -> Column:
        return self

    cpu = detach

    def numpy(self) -> np.ndarray:
        return self.values


class FakeScorer:
    transform, device = None, "cpu"

    def __init__(
        self, step: int = 1, on_block: Callable[[np.ndarray], None] = lambda _ids: None, **changes: Any
    ) -> None:
        self.step, self.on_block = step, on_block
        self.plan: dict[str, Any] = {}
        self.described = {
            "model": {"class": "Net", "fingerprint": "sha256:model", "spec": None, "weights": None},
            "passes": 100,
            "seed": 0,
            "masks": "independent",
            "scores": ["bald", "entropy"],
            "likelihood": "categorical",
            "input": "logits",
            "dtype": "float32",
            "device": "cpu",
            "threads": 1,
            "normalize": None,
        }
        for name, value in changes.items():
            if name == "model":
                self.described["model"] = {**self.described["model"], "fingerprint": value}
            else:
                self.described[name] = value
        self.seen: list[int] = []

    @property
    def recorded_plan(self) -> dict[str, Any]:
        return self.plan

    @property
    def normalization(self) -> Any:
        return self.described["normalize"]

    def copy(self, passes: int | None = None, errors: bool | None = None) -> FakeScorer:
        """One that notes the items it has seen with this one."""
        twin = copy.copy(self)
        given = {"passes": passes, "errors": errors}
        twin.described = self.described | {name: value for name, value in given.items() if value is not None}
        twin.plan = {}
        return twin

    def adopt(self, other: FakeScorer) -> None:
        self.plan = self.plan or other.plan

    def describe(self) -> dict[str, Any]:
        sites = [{"index": 0, "name": "drop", "p": 0.5}] if self.plan else []
        return {**self.described, "sites": self.described.get("sites", sites), "plan": self.plan}

    def prepare(self, items: np.ndarray, ids: np.ndarray, plan: dict[str, Any] | None = None) -> dict[str, Any]:
        assert len(items) == len(ids) > 0
        new = {"items": self.step, "passes": 100, "path": "vmap", "prefix_flops": 10**9, "tail_flops": 0}
        self.plan = dict(plan or new)
        return self.plan

    def look(self, _sample: Any) -> tuple[()]:
        return ()

    def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
        np.testing.assert_array_equal(items[:, 0], ids * 4)
        self.on_block(ids)
        self.seen += ids.tolist()
        bits = np.float32(1e-3 * self.plan["items"] + 1e-4 * len(ids))
        names = columns(self.described["scores"], self.described.get("errors", False))
        scores = {name: (np.sin(ids + i) + 2 + bits).astype(np.float32) for i, name in enumerate(names)}
        if self.described["passes"] != 100:  # a first stage: other scores, and errors of their size
            for name in self.described["scores"]:
                scores[name] += (0.05 * np.sin(7 * ids)).astype(np.float32)
                scores[f"{name}_se"] = (0.05 + 0.01 * (ids % 3)).astype(np.float32)
                scores[f"{name}_bias"] = np.full(len(ids), -0.01, np.float32)
        scores["prediction"] = ids.astype(np.float32 if self.described["likelihood"] == "gaussian" else np.int32) % 10
        return {name: Column(values) for name, values in scores.items()}


def begin(out: Path, **changes: Any) -> Run:
    """Score a fresh pool; as a run that goes on would find other conditions, the scorer of a second call plans anew."""
    return score_pool(FakePool(), FakeScorer(**changes), out, span=SPAN)


def unpacked(run: Run) -> Run:
    """The same run with a file for every record, as it was before it was complete."""
    packed = run.path / "commits" / "packed.jsonl"
    for number, line in enumerate(packed.read_bytes().splitlines(keepends=True)):
        (packed.parent / f"{number:06d}.json").write_bytes(line)
    packed.unlink()
    return run


def said_records(out: Path) -> list[dict[str, Any]]:
    """What the records of a complete run say, by span."""
    return [json.loads(line)["record"] for line in (out / "commits" / "packed.jsonl").read_bytes().splitlines()]


def go_on(out: Path, **changes: Any) -> Run:
    return begin(out, step=changes.pop("step", 2), **changes)


def reheader(run: Path, sealed: bool = False, **changes: Any) -> None:
    """Give run.json other fields, ... for none; as an mcscore without checksums would have written it, unless sealed."""
    said = unsealed(json.loads((run / "run.json").read_bytes())) | changes
    said = {name: value for name, value in said.items() if value is not ...}
    (run / "run.json").write_text(json.dumps(fields.sealed(said) if sealed else said))


def content(run: Run) -> dict[str, bytes]:
    """Everything a run says about the items, as bytes."""
    values = {name: run.scores(name) for name in run.columns} | {"prediction": run.prediction}
    return {name: column.tobytes() for name, column in values.items()} | {"bad": run.nonfinite_ids.tobytes()}


def fail_at(id: int) -> Callable[[np.ndarray], None]:
    """For on_block: fail at the block that holds an item."""

    def fail(ids: np.ndarray) -> None:
        if id in ids:
            raise MemoryError("CUDA out of memory")

    return fail


def slowly(out: str, seconds: float, say: Callable[[int], None]) -> None:
    """For a process of its own: score with a pause at every block, and say how far it is."""
    scorer = FakeScorer(on_block=lambda _ids: time.sleep(seconds))
    score_pool(FakePool(), scorer, out, span=SPAN, progress=lambda done, _total: say(done))


def kill_five_times(out: str) -> None:
    """Score in five processes, one after the other, and kill each within 0.3 s of its beginning."""
    seed = int(os.environ.get("MCSCORE_KILL_SEED", random.randrange(10**6)))
    print(f"MCSCORE_KILL_SEED={seed}")  # pytest shows it when the test fails
    rng = random.Random(seed)
    for _ in range(5):
        child = Child(slowly, out, 0.1)
        child.hear()  # it is scoring
        time.sleep(rng.uniform(0, 0.3))
        child.kill()
