"""``score``: the scores of any data, as a table in memory; or durable, by way of a pool."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import PoolError, RunError, SampleError
from ...ingest.samples import Name
from ...paths import local_path
from ...pool import Pool
from ...progress import Progress, Shown, shown, stage_of
from ...scorer.checks import Sample
from ..findings import Check, require_check, told
from ..score import score_pool, warn_of_nonfinite
from ..scoring.normalize import own_scorer, require_scorer
from ..spans import BLOCK_BYTES, default_cut, speed_of
from ..start import FIRST_BLOCK
from ..table import table_of
from .feeds import Feed, Fields, Part, feed_of, regrouped

if TYPE_CHECKING:
    import pyarrow

    from ...scorer.scorer import Scorer

_LOG = logging.getLogger(__name__)
_CHECKED = 64  # items that the checks look at, and that a copy is compared by
_MANY = 1 << 40  # items, where their number is not known


def score(
    data: Any,
    scorer: Scorer,
    *,
    item: Name | None = None,
    ids: Name | None = None,
    out: str | os.PathLike[str] | None = None,
    check: Check = "warn",
    progress: Shown = None,
) -> pyarrow.Table:
    """Score every item of a dataset, loader, array or file. The items are streamed; the scores are held in memory.

    An item's id is its position, 0 to N-1, so scores are those that ``score_pool`` gives for a pool of the same items in the same order.

    Args:
        data: a torch or Hugging Face dataset, a DataLoader that does not shuffle, an array or tensor (N, ...), an iterable of batches, a
            ``Pool``, or the path of a pool or of a file that holds one array (.npy, .npz, idx, Zarr). What has a length and takes an index
            gives samples, as in PyTorch, a list too; other iterables give batches. A sample or batch is the item, or (item, label), or a
            dict. Labels are not looked at; of a pool labeled and excluded items are left out.
        scorer: as for ``score_pool``; a copy of it is used.
        item: the key or position of the item, where a sample is a dict or tuple in which it cannot be told.
        ids: the key or position of a whole number in a sample, to be its id; needed of a loader that shuffles.
        out: a run directory, to make it durable: the items are copied to a pool beside it, ``<out>.pool``, and scored by ``score_pool``.
            The same call resumes; ``Run.open(out)`` selects. Needs data that can be read again.
        check: whether to look first if model and input fit each other, see ``score_pool``.
        progress: called as progress(items done, items in all; what is done where that is not known). None: a bar on a terminal and in a
            notebook; False: nothing.

    Returns:
        Columns id, the scores, with ``errors`` their errors, prediction; in the order of the data, null where an item has no finite score.

    Raises:
        SampleError: an item cannot be told, or the order or number of items is not what ids need; index and remedy are named.
        RunError: ``out`` cannot be used, see ``score_pool``.
        CheckError: something does not look right, and ``check`` is "strict".
        Exception: what ``Scorer`` raises for a model that cannot be scored.

    Example:
        >>> import torch, mcscore
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 3))
        >>> dataset = torch.utils.data.TensorDataset(torch.rand(20, 4), torch.zeros(20))
        >>> table = mcscore.score(dataset, mcscore.Scorer(model, passes=10))
        >>> table.column_names, len(table)
        (['id', 'bald', 'entropy', 'prediction'], 20)
        >>> best = table.sort_by([("bald", "descending")])["id"][:3].to_pylist()
    """
    require_scorer(scorer)
    require_check(check)
    data = _opened(data)
    if out is not None:
        return _durable(
            data, scorer, Fields(item, ids), local_path(out, "a copy of the items", RunError), check, progress
        )
    feed = _pool(data) if isinstance(data, Pool) else feed_of(data, Fields(item, ids))
    own = own_scorer(scorer, data) if isinstance(data, Pool) else scorer.copy()
    columns: dict[str, list[np.ndarray]] = {"id": []}
    done = 0
    with shown(progress) as tell:
        tell(0, feed.n or 0)
        for ids_B, items_B in _blocks(feed, own, check):
            columns["id"].append(ids_B)
            for name, values in own(items_B, ids_B).items():
                columns.setdefault(name, []).append(values.cpu().numpy())
            done += len(ids_B)
            tell(done, feed.n or done)
    if not done:
        raise SampleError("there is nothing to score: the data holds no item")
    if feed.n is not None and done != feed.n:
        raise SampleError(f"{done} items came, and the data has a length of {feed.n}")
    scorer.adopt(own)
    return _table({name: np.concatenate(blocks) for name, blocks in columns.items()}, named=ids is not None)


def _opened(data: Any) -> Any:
    """The pool, where ``data`` is the path of one."""
    if isinstance(data, (str, os.PathLike)) and Path(data).is_dir():
        try:
            return Pool.open(data)
        except PoolError:
            return data
    return data


def _pool(pool: Pool) -> Feed:
    """What of a pool is neither labeled nor excluded."""
    left = ~pool.labeled & ~pool.excluded

    def read() -> Iterator[Part]:
        for batch in pool.blocks():
            keep = left[batch.ids]
            if keep.any():
                yield batch.ids[keep], batch.items[keep]

    return Feed(int(left.sum()), read)


def _blocks(feed: Feed, scorer: Scorer, check: Check) -> Iterator[Part]:
    """The items in the blocks that a run of them would have, if their number is known: the same blocks, the same bits."""
    given = feed.parts()
    begin = list(_first(given))
    if not begin:
        return
    ids_B, items_B = next(regrouped(begin, FIRST_BLOCK))
    item_bytes = max(1, int(np.prod(items_B.shape[1:])) * items_B.dtype.itemsize)
    few = max(3, min(FIRST_BLOCK, BLOCK_BYTES // item_bytes))
    plan = scorer.prepare(items_B[:few], ids_B[:few])
    if check != "off":
        at = np.unique(np.linspace(0, len(ids_B) - 1, _CHECKED).astype(np.int64))
        told(scorer.look(Sample(items_B[at], np.full(len(at), -1), len(at))), check)
    flops = plan["prefix_flops"] + scorer.passes * plan["tail_flops"]
    span, block = default_cut(feed.n or _MANY, plan["items"], flops, item_bytes, speed=speed_of(scorer.device))
    yield from regrouped(itertools.chain(begin, given), min(span, block))


def _first(given: Iterator[Part]) -> Iterator[Part]:
    """As many parts as hold the items that a plan is made with."""
    held = 0
    for part in given:
        yield part
        held += len(part[0])
        if held >= FIRST_BLOCK or held * part[1][0].nbytes >= BLOCK_BYTES:
            return


def _table(columns: dict[str, np.ndarray], named: bool) -> pyarrow.Table:
    """The table of the results of all blocks; what is not finite is told."""
    ids = columns.pop("id")
    if named and len(np.unique(ids)) < len(ids):
        found, counts = np.unique(ids, return_counts=True)
        raise SampleError(
            f"id {found[counts > 1][0]} was given {counts.max()} times; ids= must name a number of each item alone"
        )
    finite = np.all([np.isfinite(values) for values in columns.values()], axis=0)
    for values in columns.values():
        values[~finite] = -1 if values.dtype.kind == "i" else np.nan
    warn_of_nonfinite(ids[~finite], len(ids))
    return table_of(ids, None, columns)


# ---- durable


def _durable(data: Any, scorer: Scorer, fields: Fields, out: Path, check: Check, progress: Shown) -> pyarrow.Table:
    """Score by way of a pool, which is made unless it is there."""
    pool = data if isinstance(data, Pool) else _copied(data, fields, out, progress)
    return score_pool(pool, scorer, out, check=check, progress=progress).table()


def _copied(data: Any, fields: Fields, out: Path, progress: Shown) -> Pool:
    """The pool beside a run that holds the items of ``data``."""
    if fields.ids is not None:
        raise RunError("a run has positions as ids: leave out ids, or leave out out")
    feed = feed_of(data, fields)
    if feed.once:
        raise RunError(f"out={str(out)!r}: {feed.once}. Leave out out, or make a pool of it: Pool.create(path, blocks)")
    path = out.with_name(f"{out.name}.pool")
    if not path.exists():
        _LOG.info("items are copied to %s, which the run %s is scored from", path, out)
        with shown(progress if progress is None else False) as tell:
            stage_of(tell)(f"copy to {path.name}", 0)
            return Pool.create(path, _counted(feed, tell), n=feed.n, source="mcscore.score")
    pool = Pool.open(path)
    _, items_B = next(regrouped(feed.parts(), min(_CHECKED, pool.n)))
    same = (pool.n, pool.item_shape, pool.dtype) == (feed.n, items_B.shape[1:], items_B.dtype)
    if not same or not np.array_equal(pool.read(0, len(items_B)), items_B, equal_nan=items_B.dtype.kind == "f"):
        raise RunError(
            f"{path} holds {pool.n:,} items of {pool.dtype} {pool.item_shape} of an earlier call, and these are other data: choose "
            "another out"
        )
    return pool


def _counted(feed: Feed, tell: Progress) -> Iterator[np.ndarray]:
    done = 0
    tell(0, feed.n or 0)
    for _, items_B in feed.parts():
        yield items_B
        done += len(items_B)
        tell(done, feed.n or done)
