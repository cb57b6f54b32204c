"""The filter of a streaming top-k: the items of a block that are better than the k-th best so far, the cut.

Order: score descending, then id ascending. -0.0 equals 0.0, and NaN is never taken.

    native   csrc/topk.h: four vectors of scores are compared with that of the cut at once
    numpy    the same where there is no extension: the comparison is one array operation per 128 Ki scores
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .native.extension import missing, native

if TYPE_CHECKING:
    from .roofline import Roofline

Cut = tuple[float, int]  # score and id of the k-th best item
NO_CUT: Cut = (-np.inf, 2**63)  # every item is better
# Sub-block of 128 Ki scores: its comparison result (128 KiB) stays in L2, and numpy's cost per call is small beside the
# 20 µs that the comparison takes. In processor time 1.1 to 1.2 times as fast as 64 Ki.
_SUB = 1 << 17


def filter_above(
    ids: npt.NDArray[np.int64] | range,
    scores: npt.NDArray[np.float32],
    exclude: npt.NDArray[np.bool_] | None,
    cut: Cut,
    room_ids: npt.NDArray[np.int64],
    room_scores: npt.NDArray[np.float32],
) -> tuple[int, int]:
    """Write the items that are better than ``cut`` into the room, in their order. Returns (items written, items looked at).

    ids (n,) int64, or a range of step 1; scores (n,) float32; exclude (n,) bool; room_ids and room_scores (m,): all C-contiguous. Fewer
    than n items were looked at if there was no room for the next.

    Raises:
        ValueError: an id outside [0, 2**63) of a score that would be taken.
    """
    if native is None:
        from .backends import warn_once

        warn_once(f"{missing}; the top-k takes the slower NumPy path")
        return _filter_above_numpy(ids, scores, exclude, cut, room_ids, room_scores)
    first, where = (ids.start, 0) if isinstance(ids, range) else (0, ids.ctypes.data)
    flags = 0 if exclude is None else exclude.ctypes.data
    found, taken = native.filter_above(
        *(scores.ctypes.data, where, first, flags, len(scores)),
        *(cut[0], cut[1] - 1, room_ids.ctypes.data, room_scores.ctypes.data, len(room_ids)),
    )
    if taken < len(scores) and found < len(room_ids):
        raise wrong_id(ids[taken])
    return found, taken


def _filter_above_numpy(
    ids: npt.NDArray[np.int64] | range,
    scores: npt.NDArray[np.float32],
    exclude: npt.NDArray[np.bool_] | None,
    cut: Cut,
    room_ids: npt.NDArray[np.int64],
    room_scores: npt.NDArray[np.float32],
) -> tuple[int, int]:
    limit, last_tied = np.float32(cut[0]), cut[1] - 1
    found = 0
    for start in range(0, len(scores), _SUB):
        passed = (scores[start : start + _SUB] >= limit).nonzero()[0] + start  # NaN compares false
        if exclude is not None:
            passed = passed[~exclude[passed]]
        passed_ids = passed + ids.start if isinstance(ids, range) else ids[passed]
        if len(passed_ids) and passed_ids.min() < 0:
            raise wrong_id(passed_ids[np.argmax(passed_ids < 0)])
        better = (scores[passed] > limit) | (passed_ids <= last_tied)
        passed, passed_ids = passed[better], passed_ids[better]
        some = min(len(passed), len(room_ids) - found)
        room_ids[found : found + some] = passed_ids[:some]
        room_scores[found : found + some] = scores[passed[:some]] + np.float32(0)  # -0.0 becomes 0.0
        found += some
        if some < len(passed):
            return found, int(passed[some])
    return found, len(scores)


def roofline(n: int) -> Roofline:
    """The least that the k best of n scores cost: each score read once, and compared with one number."""
    from .roofline import Roofline

    return Roofline(bytes=4 * n, flops=n)


def wrong_id(found: object) -> ValueError:
    """The error of an id that no item has."""
    return ValueError(f"ids must lie in [0, 2**63): found {found}")
