"""Several cycles: methods and seeds on one pool, each with its own labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..errors import RunError
from ..paths import local_path
from ..pool import Pool
from .loop import Tell, cycle
from .state import Round, summarize_all

_NAME = re.compile(r"\w[\w .,+-]*")


def cycles(
    pool: Pool,
    *,
    methods: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    out: str | Path,
    start: Callable[[int], npt.ArrayLike] | None = None,
    progress: Tell = lambda _stage: None,
    **shared: Any,
) -> dict[str, list[list[Round]]]:
    """Run a cycle for each method and each seed, in ``out/<method>/seed-<seed>``, and write all results to ``out/cycle.json``.

    Killed at any moment, the same call goes on. Processes with other methods or seeds may share a directory.

    Args:
        pool: the items.
        methods: name -> arguments of ``cycle`` that are the method's own, such as ``{"bald": {"select": {"by": "bald"}},
            "random": {"select": "random"}}``.
        seeds: the seeds.
        out: directory of all cycles.
        start: seed -> ids that are labeled at first, the same for all methods; default: those labeled in ``pool``.
        progress: called with a sentence at the start of each stage.
        shared: arguments of ``cycle`` that all methods share.

    Returns:
        The rounds by method, for each seed.

    Raises:
        ValueError: the name of a method cannot be that of a folder.
        Exception: what ``cycle`` raises.
    """
    where = local_path(out, "cycles", RunError).absolute()
    if start is not None and not callable(start):
        raise TypeError(
            f"start of cycles is a function of the seed, not of type {type(start).__name__}: start=lambda seed: ids gives all seeds the same"
        )
    for name in methods:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot name a method: letters, digits, spaces and _ . , + - are needed, a letter first"
            )
    summarize_all(where, list(methods))
    results: dict[str, list[list[Round]]] = {name: [] for name in methods}
    for number, seed in enumerate(seeds, 1):
        for name, own in methods.items():

            def tell(stage: str, where: str = f"seed {number}/{len(seeds)}, {name}") -> None:
                progress(f"{where}, {stage}")

            turns = cycle(
                pool,
                out=where / name / f"seed-{seed}",
                seed=seed,
                start=None if start is None else start(seed),
                progress=tell,
                **{**shared, **own},
            )
            results[name].append(list(turns))
            summarize_all(where, list(methods))
    return results
