"""What a method chooses from, and what it returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .neighbors import Others
from .room import Room
from .topk import best_first

Ints = npt.NDArray[np.int64]
_BLOCK = 1 << 11  # candidates that are compared with labeled items at a time


@dataclass(frozen=True)
class Candidates:
    """M items with a score, best first (score descending, id ascending), and what is known of them.

    Attributes:
        ids: (M,) int64, each once.
        scores: (M,) float32, never NaN.
        embeddings: (M, D) float32, finite.
        labeled: (L, D) float32, embeddings of labeled items.
        probabilities: (M, C), mean over the passes.
        samples: (M, T, C), probabilities of each pass, with masks that all items share.
        targets: (J, T, C), the same of the items whose predictions matter.
        ranks: (M,) places among all items by score, from 1.
    """

    ids: Ints
    scores: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float32] | None = None
    labeled: npt.NDArray[np.float32] | None = None
    probabilities: npt.NDArray[np.floating] | None = None
    samples: npt.NDArray[np.floating] | None = None
    targets: npt.NDArray[np.floating] | None = None
    ranks: Ints | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, positions: Ints) -> Candidates:
        """Some of the candidates, in this order."""
        if np.array_equal(positions, np.arange(len(self))):  # embeddings of a million candidates are not copied
            return self
        per_candidate = [field.name for field in dataclasses.fields(self) if field.name not in ("labeled", "targets")]
        parts: dict[str, Any] = {name: getattr(self, name) for name in per_candidate}
        for name, part in parts.items():
            parts[name] = None if part is None else np.asarray(part)[positions]
        return dataclasses.replace(self, **parts)

    def check(self, diversity: str, needs: Iterable[str]) -> None:
        """ValueError unless all that a method needs is there and fits."""
        for name in needs:
            if name != "ranks" and getattr(self, name) is None:  # the ranks among the candidates are known
                of = "" if name == "targets" else " of the candidates"
                raise ValueError(f"diversity {diversity!r} needs {name}{of}: give them, or choose diversity 'none'")
        for name in ("samples", "ranks"):
            if (given := getattr(self, name)) is not None and len(given) != len(self):
                raise ValueError(
                    f"{name} are those of {len(given)} items; {len(self)}, one for each candidate, are needed"
                )
        if self.labeled is None or self.embeddings is None or not len(self.labeled):
            return
        if self.labeled.shape[1] != self.embeddings.shape[1]:
            raise ValueError(
                f"labeled_embeddings {self.labeled.shape} and embeddings {self.embeddings.shape} differ in width"
            )

    def far_from_labeled(self, positions: Ints, distance: float) -> Ints:
        """Those of the positions whose candidates lie further than ``distance`` from all labeled items.

        Raises:
            ValueError: there are no embeddings.
        """
        if self.embeddings is None:
            raise ValueError(
                "labeled_distance needs embeddings of the candidates: give them, or leave labeled_distance out"
            )
        if self.labeled is None or not len(self.labeled):
            return positions
        labeled = Others.of(self.labeled)
        parts = [
            ~labeled.any_within(self.embeddings[positions[at : at + _BLOCK]], distance)
            for at in range(0, len(positions), _BLOCK)
        ]
        return positions[np.concatenate(parts)] if parts else positions


@dataclass(frozen=True)
class Picks:
    """The picked candidates: their ``positions`` (k,), in the order of choice, and ``facts`` that the selection records."""

    positions: Ints
    facts: Mapping[str, Any] = field(default_factory=dict)


def walk(order: Ints, k: int, room: Room) -> Picks:
    """The first k of the positions that are open when they are come to."""
    if not room.limited:
        return Picks(order[:k])
    chosen: list[int] = []
    for at in order.tolist():
        if len(chosen) == k:
            break
        if room.open[at]:
            room.take(at)
            chosen.append(at)
    return Picks(np.array(chosen, np.int64))


def scored_best_first(ids: npt.ArrayLike, scores: npt.ArrayLike, k: int) -> Ints:
    """Sort the positions of the candidates that have a score, best first.

    Raises:
        ValueError: shapes differ, k is no whole number, an id stands twice, or fewer than k have a score.
    """
    ids_M, scores_M = np.asarray(ids), np.asarray(scores)
    if ids_M.ndim != 1 or ids_M.shape != scores_M.shape:
        raise ValueError(f"ids {ids_M.shape} and scores {scores_M.shape} must be one-dimensional and equally long")
    if isinstance(k, bool) or k != int(k) or k < 0:
        raise ValueError(f"k must be a whole number of items >= 0, got {k!r}")
    order: Ints = best_first(ids_M, scores_M)
    sorted_ids = np.sort(ids_M)
    if (sorted_ids[1:] == sorted_ids[:-1]).any():
        raise ValueError(f"id {sorted_ids[1:][sorted_ids[1:] == sorted_ids[:-1]][0]} is a candidate more than once")
    if len(order) < k:
        unscored = f" ({len(ids_M) - len(order)} more have no score)" if len(order) < len(ids_M) else ""
        raise ValueError(f"k = {k}, but only {len(order)} candidates are left{unscored}: ask for at most {len(order)}")
    return order


def points(name: str, values: Any, ids: np.ndarray | None, dtype: Any = np.float32) -> np.ndarray:
    """Check an array (M, D) of finite values, in the order of ids, if given.

    Raises:
        ValueError: another shape, or values that are not finite; the message names the first ids that have them.
    """
    array = np.ascontiguousarray(values, dtype=dtype)
    if array.ndim != 2 or (ids is not None and len(array) != len(ids)):
        raise ValueError(f"{name} have shape {array.shape}; ({'L' if ids is None else len(ids)}, D) is needed")
    broken = np.flatnonzero(~finite_rows(array))
    if len(broken):
        which = f"row {broken[0]}" if ids is None else f"id {', '.join(map(str, ids[broken[:5]].tolist()))}"
        raise ValueError(f"{name} must be finite; {len(broken)} are not, the first of {which}")
    return array


def finite_rows(array_MD: np.ndarray, block: int = 1 << 14) -> npt.NDArray[np.bool_]:
    """(M,) whether all values of a row are finite, in blocks: a mask of the whole array would take a quarter of its memory."""
    parts = [np.isfinite(array_MD[at : at + block]).all(axis=1) for at in range(0, len(array_MD), block)]
    return np.concatenate(parts) if parts else np.ones(0, bool)
