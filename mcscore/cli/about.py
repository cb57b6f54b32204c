"""mcscore env and mcscore demo."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import PATH
from .terminal import as_json, emit

if TYPE_CHECKING:
    pass


@click.command()
@as_json
def env() -> None:
    """Versions, machine, and which kernels are active here (and why the others are not)."""
    from .. import env as environment

    facts = environment.describe()
    emit(facts, environment.text(facts))


@click.command()
@click.option(
    "--out",
    type=PATH,
    default=Path("demo-out"),
    show_default=True,
    help="Where to write; a former demo there is replaced.",
)
@click.option("--seeds", type=click.IntRange(1), help="How many times from other first labels.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds of labeling.")
@click.option("--passes", type=click.IntRange(1, 65536), help="Stochastic forward passes per item.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@as_json
def demo(out: Path, quiet: bool, **sizes: int | None) -> None:
    """The whole active-learning cycle on scikit-learn's handwritten digits, beside random labels."""
    from ..demo import main as run_demo

    given = {name: value for name, value in sizes.items() if value is not None}
    if not click.get_current_context().meta.get("json"):
        run_demo(out, quiet=quiet, **given)
        return
    with contextlib.redirect_stdout(sys.stderr):
        facts = run_demo(out, quiet=quiet, **given)
    emit(facts)
