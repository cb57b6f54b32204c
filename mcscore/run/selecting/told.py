"""What a selection file tells beside the items: all that was asked for, and the mean probabilities that the method had."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .item_columns import ItemColumn

if TYPE_CHECKING:
    from ...selection import Limits

_LISTED = 1000  # values of an argument that stand in the file; of more their number and checksum


def asked_of(*, limits: Limits, targets: Any, **scalars: Any) -> dict[str, Any]:
    """The arguments of a selection as JSON; long ones as their number and the sha256 of their values.

    >>> from mcscore.selection import Limits
    >>> asked_of(k=2, limits=Limits(leave_out=[3, 1]), targets=None)
    {'k': 2, 'limits': {'leave_out': [3, 1]}}
    """
    from ...pool import Pool

    given = {name: getattr(limits, name) for name in ("per_class", "per_group", "budget", "labeled_distance")}
    given |= {name: _array(getattr(limits, name)) for name in ("leave_out", "groups", "costs")}
    if limits.groups is not None:
        given["group_name"] = limits.group_name
    kept = {name: value for name, value in given.items() if value is not None}
    told = {**scalars, **({"limits": kept} if kept else {})}
    if isinstance(targets, Pool):
        return {**told, "targets": {"pool": targets.fingerprint}}
    return told if targets is None else {**told, "targets": targets if isinstance(targets, int) else _array(targets)}


def class_columns(arrays: dict[str, Any], chosen: npt.NDArray[np.int64]) -> dict[str, Any]:
    """The column of mean probabilities (k, C), where the method had the passes of its candidates.

    A later selection may replace the samples that the run keeps of them.
    """
    import pyarrow

    if "samples" in arrays:
        p_kC = arrays["samples"][chosen].mean(axis=1)
    elif "probabilities" in arrays:
        p_kC = arrays["probabilities"][chosen]
    else:
        return {}
    flat = pyarrow.array(np.ascontiguousarray(p_kC, np.float32).reshape(-1))
    return {"probabilities": pyarrow.FixedSizeListArray.from_arrays(flat, p_kC.shape[1])}


def _array(values: Any) -> Any:
    if values is None:
        return None
    parts = values.named if isinstance(values, ItemColumn) else (np.asarray(values),)
    if len(parts) == 1 and len(parts[0]) <= _LISTED:
        return [value if np.isfinite(value) else None for value in parts[0].tolist()]  # JSON has no NaN
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return {"items": len(parts[0]), "sha256": digest.hexdigest()}
