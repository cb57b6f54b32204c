"""The filter of a streaming top-k: keys, in one total order, of the scores of a block that can be among the k best.

Order: score descending, then id ascending. Both live in one unsigned 64-bit key, ``order(score) << 32 | ~id``, so that
"better" is one integer comparison, ties included.

    native   csrc/topk.h: four vectors of scores against the cut at once; keys are made of the few that pass
    numpy    the same where there is no extension: the comparison is one array operation per 128 Ki scores
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .native.extension import missing, native

if TYPE_CHECKING:
    from .roofline import Roofline

MAX_ID = 2**32 - 1
# Sub-block of 128 Ki scores: its comparison result (128 KiB) stays in L2, and numpy's cost per call is small beside the
# 20 µs that the comparison takes. In processor time 1.1 to 1.2 times as fast as 64 Ki.
_SUB = 1 << 17


def filter_above(
    ids: npt.NDArray[np.int64] | range,
    scores: npt.NDArray[np.float32],
    exclude: npt.NDArray[np.bool_] | None,
    cut: int,
    room: npt.NDArray[np.uint64],
) -> tuple[int, int]:
    """Write the keys greater than ``cut`` (0: all) into ``room``. Returns (keys written, items looked at).

    ids (n,) int64, or a range of step 1; scores (n,) float32; exclude (n,) bool: all C-contiguous. NaN is never taken. Fewer than n
    items were looked at if there was no room for the next.

    Raises:
        ValueError: an id outside [0, 2**32) of a score that would be taken.
    """
    if native is None:
        from .backends import warn_once

        warn_once(f"{missing}; the top-k takes the slower NumPy path")
        return _filter_above_numpy(ids, scores, exclude, cut, room)
    first, where = (ids.start, 0) if isinstance(ids, range) else (0, ids.ctypes.data)
    flags = 0 if exclude is None else exclude.ctypes.data
    found, taken = native.filter_above(
        scores.ctypes.data, where, first, flags, len(scores), cut, room.ctypes.data, len(room)
    )
    if taken < len(scores) and found < len(room):
        raise _wrong_id(ids[taken])
    return found, taken


def _filter_above_numpy(
    ids: npt.NDArray[np.int64] | range,
    scores: npt.NDArray[np.float32],
    exclude: npt.NDArray[np.bool_] | None,
    cut: int,
    room: npt.NDArray[np.uint64],
) -> tuple[int, int]:
    _, limits = split_keys(np.array([cut], np.uint64)) if cut else (None, np.array([-np.inf], np.float32))
    found = 0
    for start in range(0, len(scores), _SUB):
        passed = (scores[start : start + _SUB] >= limits[0]).nonzero()[0] + start  # NaN compares false
        if exclude is not None:
            passed = passed[~exclude[passed]]
        keys = keys_of(passed + ids.start if isinstance(ids, range) else ids[passed], scores[passed])
        passed, keys = passed[keys > cut], keys[keys > cut]
        some = min(len(keys), len(room) - found)
        room[found : found + some] = keys[:some]
        found += some
        if some < len(keys):
            return found, int(passed[some])
    return found, len(scores)


def keys_of(ids: npt.NDArray[np.integer], scores: npt.NDArray[np.floating]) -> npt.NDArray[np.uint64]:
    """One uint64 per item; a greater key is a better item. Scores must not be NaN.

    The sign-magnitude bits of a float32 become an unsigned integer of the same order, as in every radix sort of
    floats: all bits flipped when negative, else the sign bit set. Adding 0.0 first makes -0.0 equal to 0.0.

    Raises:
        ValueError: ids that are not integers in [0, 2**32).
    """
    if ids.dtype.kind not in "iu":
        raise ValueError(f"ids must be integers, not {ids.dtype}")
    low_bits = ids.astype(np.int64).view(np.uint64)  # a copy that becomes the keys; negative ids wrap to above 2**63
    if len(low_bits) and low_bits.max() > MAX_ID:
        raise _wrong_id(ids[np.argmax(low_bits > MAX_ID)])
    bits = (scores.astype(np.float32, copy=False) + np.float32(0)).view(np.int32)
    bits ^= (bits >> 31) | np.int32(-(2**31))
    keys = bits.view(np.uint32).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.subtract(np.uint64(MAX_ID), low_bits, out=low_bits)
    return keys


def split_keys(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """``(ids int64, scores float32)`` of keys made by :func:`keys_of`."""
    order = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(order >> 31 != 0, order & np.uint32((1 << 31) - 1), ~order)
    ids = (np.uint64(MAX_ID) - (keys & np.uint64(MAX_ID))).astype(np.int64)
    return ids, bits.astype(np.uint32).view(np.float32)


def roofline(n: int) -> Roofline:
    """The least that the k best of n scores cost: each score read once, and compared with one number."""
    from .roofline import Roofline

    return Roofline(bytes=4 * n, flops=n)


def _wrong_id(found: object) -> ValueError:
    return ValueError(f"ids must lie in [0, 2**32): found {found}")
