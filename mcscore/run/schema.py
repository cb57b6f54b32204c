"""run.json: what was scored with what. A run goes on only with exactly the same.

The file holds ``Scorer.describe()`` as it is, beside ``format``, ``version``, ``id``, ``created``, ``pool``, ``grown``
(number of items and fingerprint of what the pool was before it was appended to), ``labeled``, ``span``, ``block_items`` and
``versions``.
"""

from __future__ import annotations

import datetime
import json
import platform
import uuid
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError

if TYPE_CHECKING:
    from ..pool import Pool

FORMAT = "mcscore-run"
VERSION = 1
Meta = dict[str, Any]

# Where the model came from and where it runs: a difference is fine, or shows in the fingerprint.
_FREE = {"model.class", "model.spec", "model.weights", "model.weights_part", "pool.path", "plan", "device", "threads"}
# Known only once the scorer has seen items.
_AFTER_PREPARE = {"sites"}
# Others compute the same scores up to their last bits.
_SAME_BITS = ("device", "versions")  # and threads, of which the scorer warns when it adopts a plan


def new_meta(pool: Pool, described: Mapping[str, Any], span: int, block_items: int, labeled: bool) -> Meta:
    """The content of a new run's run.json; ``described`` is a prepared scorer's ``describe()``."""
    return _as_json(
        {
            "format": FORMAT,
            "version": VERSION,
            "id": uuid.uuid4().hex,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "pool": pool_facts(pool),
            "grown": [],
            **described,
            "labeled": labeled,
            "span": span,
            "block_items": block_items,
            "versions": _versions(),
        }
    )


def read_meta(path: Path) -> Meta:
    """The content of run.json in the directory ``path``.

    Raises:
        RunError: there is none, it is not one, or it was written by a newer version.
    """
    try:
        meta = json.loads((path / "run.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path} is not a run: it has no run.json; `mcscore score` makes one") from None
    except ValueError as error:
        raise RunError(f"{path / 'run.json'} cannot be read ({error}): the run is lost, remove it") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise RunError(f"{path} is not a run: its run.json does not say format {FORMAT!r}")
    if not isinstance(meta.get("version"), int) or meta["version"] > VERSION:
        raise RunError(
            f"{path} is a run of version {meta.get('version')!r}; this mcscore reads up to {VERSION}: upgrade mcscore"
        )
    return meta


def refuse_difference(
    path: Path,
    meta: Meta,
    pool: Pool,
    described: Mapping[str, Any],
    span: int | None,
    labeled: bool,
    *,
    prepared: bool,
) -> None:
    """Compare a recorded run with the pool, scorer and span (None: whatever was recorded) that are to continue it.

    Before the scorer was prepared its sites are not compared, as it does not know them yet. A pool that has been appended
    to is the same one.

    Raises:
        RunError: they differ; names the first field that does, both values, and what to do.
        ChunkError: the pool differs because it has lost a file.
    """
    n = meta["grown"][0]["n"] if meta["grown"] else meta["pool"]["n"]  # when the run was begun, and its span decided
    span = meta["span"] if span is None else min(span, n)
    same_pool = holds_pool_of(meta, pool)
    if not same_pool:
        pool.check_files()
    now = _as_json(
        {"pool": meta["pool"] if same_pool else pool_facts(pool), **described, "span": span, "labeled": labeled}
    )
    free = _FREE if prepared else _FREE | _AFTER_PREPARE
    recorded_fields, fields = dict(_fields(meta)), dict(_fields(now))
    own = {"format", "version", "id", "created", "grown", "block_items", "versions"}
    for field in [*fields, *(name for name in recorded_fields if name not in fields and name not in own)]:
        if field in free or fields.get(field) == recorded_fields.get(field):
            continue
        recorded, given = (json.dumps(values.get(field)) for values in (recorded_fields, fields))
        raise RunError(
            f"{path} was begun with other {field.replace('.', ' ')}: {recorded} there, {given} now. "
            "Go on with what was recorded, or score into another directory"
        )


def warn_of_other_bits(path: Path, meta: Meta, described: Mapping[str, Any]) -> None:
    """Say so when the run goes on where the same computation may end in other last bits."""
    now = _as_json({**described, "versions": _versions()})
    changes = [
        f"{name} {meta.get(name)} then, {now.get(name)} now" for name in _SAME_BITS if meta.get(name) != now.get(name)
    ]
    if changes:
        warnings.warn(
            f"{path} goes on under other conditions, so the last bits of scores may differ: {'; '.join(changes)}",
            stacklevel=2,
        )


def holds_pool_of(meta: Meta, pool: Pool) -> bool:
    """Whether ``pool`` is the one recorded, or what it has become by appending."""
    recorded = meta["pool"]
    if pool.n > recorded["n"]:
        return pool.fingerprint_at(recorded["n"]) == recorded["fingerprint"]
    return (pool.n, pool.fingerprint) == (recorded["n"], recorded["fingerprint"])


def pool_facts(pool: Pool) -> Meta:
    """What run.json says of the pool."""
    from ..store.files import location

    return {"path": location(pool.path), "fingerprint": pool.fingerprint, "n": pool.n}


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("mcscore", "torch", "numpy")},
    }


def _fields(meta: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values to compare, by name; those of pool and model one by one."""
    for name, value in meta.items():
        if name in ("pool", "model"):
            yield from ((f"{name}.{key}", part) for key, part in value.items())
        else:
            yield name, value


def _as_json(value: Any) -> Any:
    """As it will be read back: tuples become lists."""
    return json.loads(json.dumps(value))
