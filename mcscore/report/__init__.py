"""Writes a run and its selection as one HTML page, with plots, pictures, styles and scripts inside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import util
from typing import TYPE_CHECKING

from ..store.files import AnyPath, Where

if TYPE_CHECKING:
    from ..pool import Pool
    from ..run import Run

NEEDED = {"jinja2": "jinja2", "PIL": "pillow"}  # module: package


def write_report(
    run: Run,
    pool: Pool | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    selection: Where | int | None = None,
    compare: Sequence[Run] = (),
) -> AnyPath:
    """Write the report of ``run`` to ``out`` (a local file; default: report.html in the run) and return its path.

    pool: the pool that was scored; default: where run.json says it is. Where that is gone, the page has no pictures and
    says so. selection: a selection of the run, its number or its file; default: the newest. compare: other runs of the pool, to show as
    rounds; default: those of the cycle that the run is a round of. An older page is replaced as the last step, and nothing else is.

    Raises ImportError if jinja2 or pillow is not installed; RunError or ValueError if ``pool`` or
    ``selection`` do not belong to the run.
    """
    missing = [package for module, package in NEEDED.items() if util.find_spec(module) is None]
    if missing:
        raise ImportError(f"a report needs {', '.join(missing)}: pip install 'mcscore[report]'")
    from .inline import script, style
    from .rounds_section import rounds_section, runs_beside
    from .source import chosen_items, pool_of
    from .view import view
    from .write import place_of, write_page

    path = place_of(out, run.path / "report.html")
    pool, warnings = pool_of(run, pool)
    rounds = rounds_section(run, compare or runs_beside(run), pool)
    variables = {**view(run, pool, chosen_items(run, selection, pool), warnings), "rounds": rounds}

    write_page(path, "page.html", {**variables, "style": style(), "script": script()})
    return path
