"""The command line: imports a pool, scores it, selects from the scores, reports. Each verb is a thin call of the library.

Modules at the top import only click and the catalog of names, so that `--help` answers without torch. Exit codes: 0 done,
1 failed, 2 wrong usage, 3 stopped but resumable.
"""

from __future__ import annotations

import click

from .. import __version__
from . import about, bench, label, label_studio, pool, run, score, select, simulate
from .config import add_config
from .terminal import Group, remembered_flag


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="mcscore")
@remembered_flag("traceback", "Show the Python traceback of an error, as MCSCORE_TRACEBACK=1 does.")
def main() -> None:
    """Find the items of a huge unlabeled pool that a human should label next.

    \b
    mcscore pool import images.npy pool.zarr
    mcscore score pool.zarr --model net.py:build --weights net.safetensors --out runs/a
    mcscore select runs/a -k 50 --by bald
    mcscore report runs/a

    Options also come from the environment (MCSCORE_SCORE_PASSES=200) and from a file (--config).
    """  # noqa: D301  (click leaves the lines after a backspace as they are)


for verb in (
    pool.pool,
    score.score,
    score.plan,
    select.select,
    label.label,
    label_studio.label_studio,
    select.report,
    run.run,
    run.export,
    simulate.simulate,
    bench.bench,
    about.env,
    about.demo,
):
    main.add_command(verb)
add_config(main)
