"""mcscore env and mcscore demo."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from . import shared
from .options import PATH
from .terminal import as_json, emit


@click.command(short_help="Show versions, the machine, and which kernels are active on it.")
@as_json
def env() -> None:
    """Show versions, the machine, and which kernels are active on it; for each inactive kernel, why it is not."""
    from .. import env as environment

    facts = environment.describe()
    emit(facts, environment.text(facts))


@click.command(short_help="Run the whole active-learning cycle on handwritten digits.")
@click.option(
    "--out",
    type=PATH,
    default=Path("demo-out"),
    show_default=True,
    help="Directory to write to; an earlier demo in it is replaced.",
)
@click.option("--seeds", type=click.IntRange(1), help="Number of repetitions, each with other first labels.")
@click.option("--rounds", type=click.IntRange(1), help="Number of rounds of labeling.")
@click.option("--passes", type=click.IntRange(1, 65536), help="Stochastic forward passes per item.")
@shared.quiet
@as_json
def demo(out: Path, quiet: bool, **sizes: int | None) -> None:
    """Run the whole active-learning cycle on scikit-learn's handwritten digits, and compare it with labels for random items."""
    from ..demo import main as run_demo

    given = {name: value for name, value in sizes.items() if value is not None}
    if not click.get_current_context().meta.get("json"):
        run_demo(out, quiet=quiet, **given)
        return
    with contextlib.redirect_stdout(sys.stderr):
        facts = run_demo(out, quiet=quiet, **given)
    emit(facts)
