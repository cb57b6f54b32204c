"""A file of samples: the probabilities of every pass, of a few items of a pool.

One line of JSON, sealed, then the ids (n,) int64 and the probabilities (n, T, C) float32, in ascending order of the ids. The line names
what they are of, the key, and has a checksum of both arrays.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import atomic
from ...errors import RunError
from ...fields import parse, sealed, unsealed

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

FORMAT, VERSION = "mcscore-samples", 1
_LONGEST = 1 << 20  # bytes of the line of JSON; anything longer is none


def samples_file(run: Path, role: str) -> Path:
    """Where a run keeps the samples of the "candidates", or of other items."""
    return run / f"samples-{role}.bin"


def write_samples(file: Path, key: dict[str, Any], ids: Ints, p_nTC: Floats) -> None:
    """Keep samples of items, ids ascending.

    Raises:
        RunError: the file cannot be written.
    """
    ids, p_nTC = np.ascontiguousarray(ids, "<i8"), np.ascontiguousarray(p_nTC, "<f4")
    line = sealed(
        {"format": FORMAT, "version": VERSION, "key": key, "shape": list(p_nTC.shape), "sha256": _sha256(ids, p_nTC)}
    )
    try:
        atomic.replace_file(file, json.dumps(line).encode() + b"\n", ids.data, p_nTC.data)
    except OSError as error:
        raise RunError(f"{file} could not be written: {error}") from error


def read_samples(file: Path, key: dict[str, Any]) -> tuple[Ints, Floats] | None:
    """The ids, ascending, and samples of a file; None if there is none, or with a warning that says why it cannot be used."""
    try:
        found, ids, p_nTC = _read(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{file} cannot be used ({error}); its samples are made again", stacklevel=2)
        return None
    wanted = json.loads(json.dumps(key))
    if found != wanted:
        differ = sorted(name for name in wanted.keys() | found.keys() if found.get(name) != wanted.get(name))
        warnings.warn(f"{file} has samples of another {', '.join(differ)}; they are made again", stacklevel=2)
        return None
    return ids, p_nTC


def mean_probabilities(file: Path, ids: Ints, model: str) -> Floats | None:
    """Mean probabilities (n, C) over the passes of the items that a file has samples of; NaN for the others.

    None if there is no such file, it is damaged, or its samples are of another model than the one of this fingerprint.
    """
    try:
        key, kept, p_nTC = _read(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if key.get("model") != model or not len(kept):
        return None
    at = np.minimum(np.searchsorted(kept, ids), len(kept) - 1)
    found = kept[at] == ids
    mean_nC = np.full((len(ids), p_nTC.shape[2]), np.nan, np.float32)
    mean_nC[found] = p_nTC[at[found]].mean(axis=1)
    return mean_nC


def _read(file: Path) -> tuple[dict[str, Any], Ints, Floats]:
    """Key, ids and samples of a file. ValueError if it is damaged or of another version."""
    with open(file, "rb") as stream:
        line = stream.readline(_LONGEST)
        header = parse(line)
        if not isinstance(header, dict) or "checksum" not in header or header.get("format") != FORMAT:
            raise ValueError("it has no samples of mcscore")
        header = unsealed(header)
        if header["version"] != VERSION:
            raise ValueError(f"it has version {header['version']}, and this mcscore reads {VERSION}")
        n, T, C = header["shape"]
        ids = np.frombuffer(stream.read(8 * n), "<i8").astype(np.int64)
        p_nTC = np.frombuffer(stream.read(4 * n * T * C + 1), "<f4").reshape(n, T, C)
    if _sha256(np.ascontiguousarray(ids, "<i8"), p_nTC) != header["sha256"]:
        raise ValueError("checksum mismatch")
    return header["key"], ids, p_nTC


def _sha256(*arrays: npt.NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.data)
    return digest.hexdigest()
