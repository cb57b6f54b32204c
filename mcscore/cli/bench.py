"""mcscore bench: measures kernels, a model and a pool on this machine."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..bench.shapes import FORMS, PRECISIONS, ShapeError, Spec, default_specs, specs
from ..text import count
from . import shared
from .model import build_scorer, users_code
from .options import COMMA, PATH, names
from .progress import SECONDS_PER_LINE
from .shared import Command
from .terminal import FAILED, as_json, emit, fail

if TYPE_CHECKING:
    import torch

    from ..bench.measure import Row


@click.group(short_help="Measure kernels, a model or a pool on this machine.")
def bench() -> None:
    """Measure kernels, a model or a pool on this machine, and compare them with plain PyTorch and the machine's limits."""


def _among(choices: Iterable[str]) -> Callable[[click.Context, click.Parameter, str | None], tuple[str, ...]]:
    """Return the callback of an option that takes some of these names."""

    def chosen(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
        given = names(ctx, param, value) or ()
        for name in given:
            if name not in choices:
                raise click.BadParameter(f"{name!r} is not one of {', '.join(choices)}")
        return given

    return chosen


@bench.command(
    cls=Command,
    short_help="Measure each kernel against PyTorch and torch.compile.",
    epilog="Shapes by kernel, optional parts in brackets: " + "; ".join(f"{k} {f}" for k, f in FORMS.items()),
)
@click.option("--device", default="cpu", show_default=True, help="Device to measure: cpu, cuda or cuda:N.")
@click.option(
    "--only",
    callback=_among(FORMS),
    metavar=COMMA,
    help=f"Kernels to measure, out of {', '.join(FORMS)}; default: all.",
)
@click.option(
    "--shapes",
    callback=names,
    metavar=COMMA,
    help="Shapes to measure, such as T20xC1000,T100xB64xD512xC10xP0.25 (see below); default: a list for each kernel.",
)
@click.option(
    "--dtype",
    callback=_among(PRECISIONS),
    metavar=COMMA,
    help=f"Types of numbers, out of {', '.join(PRECISIONS)}; default: float32 for --shapes, else a list for each kernel.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@shared.seconds(0.3)
@click.option(
    "--no-compile",
    "compile",
    flag_value=False,
    default=True,
    help="Leave out the ratio to torch.compile, which saves minutes.",
)
@as_json
@click.pass_context
def kernels(
    ctx: click.Context,
    device: str,
    only: tuple[str, ...],
    shapes: tuple[str, ...] | None,
    dtype: tuple[str, ...],
    threads: int,
    seconds: float,
    compile: bool,
) -> None:
    """Measure each kernel over its shapes: items/s, share of the roof, ratios to PyTorch and torch.compile, error.

    The roof is the speed at which this machine copies memory or multiplies matrices, measured first. A shape is a list of
    letters with numbers: T passes, B items (chosen if left out), C classes, D features, E mask elements of I
    values each, L positions of D features each, P drop probability, N scores of which the best K are found, rounded to Q values.
    Words may follow: shared (one mask per pass, for all items), own (an input of its own for each pass), errors (with standard
    errors). Every kernel that takes a shape is measured.
    """
    try:
        chosen = _chosen(device, only, shapes, dtype)
    except ShapeError as error:
        raise click.UsageError(str(error)) from error
    from ..bench.cases import NoKernel
    from ..bench.measure import Bench

    where = _device(device)
    with _torch_threads(threads):
        say("measuring the roof" + (" and trying torch.compile" if compile else ""))
        lab = Bench.open(where, compile, seconds)
        facts = _head(ctx, where, lab.ceilings)
        rows: list[Row] = []
        skipped: list[dict[str, str]] = []
        for number, spec in enumerate(chosen, 1):
            say(f"{number} of {len(chosen)}: {spec}")
            try:
                rows.append(lab.measure(spec))
            except NoKernel as error:
                skipped.append({"case": str(spec), "why": str(error)})
                click.echo(f"mcscore: skipped: {error}", err=True)
            else:
                _show(ctx, rows)
        say("")
    facts |= {"rows": [row.to_dict() for row in rows], "skipped": skipped}
    if wrong := [row for row in rows if not row.right]:
        told = "; ".join(
            f"{row.kernel} {row.shape} {row.dtype}: {row.error:.3g} > {row.tolerance:.3g}" for row in wrong
        )
        fail(ctx, FAILED, f"results differ from float64 by more than rounding: {told}", "WrongResults", **facts)
    from ..bench.table import LEGEND

    emit(facts, "", *LEGEND)


def _sizes(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    parts = value.split("x")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{value!r} is not a shape such as 3x224x224")
    return tuple(map(int, parts))


@bench.command(cls=Command, short_help="Measure your model against a plain loop of passes.")
@click.argument("path", metavar="[POOL]", type=PATH, required=False)
@shared.model
@shared.passes
@shared.likelihood
@shared.execution
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Items to score at a time.")
@click.option(
    "--item-shape",
    callback=_sizes,
    metavar="3x224x224",
    help="Shape of random items, to measure without POOL.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: as many as torch uses.")
@shared.seconds(2.0)
@as_json
@click.pass_context
def model(
    ctx: click.Context,
    /,
    path: Path | None,
    spec: str,
    weights: Path | None,
    batch: int,
    item_shape: tuple[int, ...] | None,
    threads: int | None,
    seconds: float,
    **settings: Any,
) -> None:
    """Measure a model: items/s of mcscore and of a plain loop of passes with dropout on, and how mcscore runs the model.

    The items are the first of POOL, or random ones of --item-shape. The plain loop runs the model as it is built:
    --dtype and --compile change mcscore alone.
    """
    if (path is None) == (item_shape is None):
        raise click.UsageError("give a POOL to take items from, or --item-shape for random items")
    with _torch_threads(threads):
        import torch

        from .. import env
        from ..bench import table
        from ..bench.clock import clock_for
        from ..bench.model import compare
        from ..pool import Pool

        opened = None if path is None else Pool.open(path)
        items: Any = torch.rand(batch, *item_shape or ()) if opened is None else opened.read(0, min(batch, opened.n))
        score = "variance" if settings["likelihood"] == "gaussian" else "bald"
        with users_code():
            scorer = build_scorer(spec, weights, scores=(score,), **settings)
            if opened is not None:
                scorer.normalize(opened.mean, opened.std)
            device = torch.device(scorer.device)
            found = compare(scorer, items, clock_for(device), seconds, say)
            say("")
            machine, plan, described = env.machine(), scorer.plan(items), scorer.describe()
    source = path if item_shape is None else f"random {'x'.join(map(str, item_shape))}"
    facts = {
        "device": scorer.device,
        "machine": machine,
        "versions": env.versions(),
        "items_from": str(source),
        "model": described["model"],
        "plan": described["plan"],
        "score": score,
        **found.to_dict(),
    }
    if not found.same:
        told = (
            f"{score} of mcscore and of the loop differ by {found.difference:.3g} on average, {score} of two seeds of mcscore "
            f"by only {found.seed_difference:.3g}: mcscore and the loop do not do the same work, so their speeds are not compared"
        )
        fail(ctx, FAILED, told, "DifferentWork", **facts)
    emit(
        facts,
        table.machine_line(device, machine),
        f"{count(found.items, 'item')} ({source}), {found.passes} passes, {score}\n",
        f"{plan}\n",
        *found.lines(),
        f"\nsame work: {score} of mcscore and of the loop differs by {found.difference:.2g} on average, "
        f"two seeds of mcscore by {found.seed_difference:.2g}",
    )


@bench.command(cls=Command, short_help="Measure reading POOL against a memory-mapped copy.")
@click.argument("path", metavar="POOL", type=PATH)
@shared.seconds(2.0)
@as_json
def pool(path: Path, seconds: float) -> None:
    """Measure reading POOL: GB/s and items/s, beside a memory-mapped copy, and how far reading ahead hides the time.

    Up to 256 MiB of the items are read repeatedly; after the first time they come from the page cache.
    """
    from .. import env
    from ..bench import pool as reading
    from ..pool import Pool

    opened = Pool.open(path)
    found = reading.read(opened, seconds, say)
    say("")
    machine = env.machine()
    facts = {"pool": str(path), "item_shape": list(opened.item_shape), "machine": machine, "versions": env.versions()}
    shape = "x".join(map(str, opened.item_shape))
    size = f"{found.bytes / 2**20:.0f} MiB"
    emit(
        facts | found.to_dict(),
        f"{machine['processor']}, {machine['cores']} cores",
        f"{path}: {count(found.items, 'item')} of {opened.dtype} {shape}, {size}, out of {opened.n:,}\n",
        *found.lines(),
    )


def _chosen(device: str, only: tuple[str, ...], shapes: tuple[str, ...] | None, dtype: tuple[str, ...]) -> list[Spec]:
    if shapes is None:
        return default_specs(device.partition(":")[0], only, dtype)
    return [spec for text in shapes for spec in specs(text, dtype or ("float32",), only)]


def _head(ctx: click.Context, device: torch.device, ceilings: Any) -> dict[str, Any]:
    """Return the facts on the machine; without --json, print them first."""
    from .. import env
    from ..bench import table

    machine = env.machine()
    if not ctx.meta.get("json"):
        say("")
        click.echo(table.machine_line(device, machine))
        click.echo(table.roof_line(ceilings))
    return {
        "device": str(device),
        "machine": machine,
        "versions": env.versions(),
        "ceilings": table.ceilings_facts(ceilings),
    }


def _show(ctx: click.Context, rows: list[Row]) -> None:
    """Print the newest row, under a heading if its kernel is new."""
    from ..bench import table

    if ctx.meta.get("json"):
        return
    say("")
    if len(rows) == 1 or rows[-1].kernel != rows[-2].kernel:
        click.echo("\n" + "\n".join(table.heading(rows[-1].kernel)))
    click.echo(table.line(rows[-1]))


_said = float("-inf")  # when the last line of progress was printed


def say(text: str) -> None:
    """Show progress on stderr: a line that replaces the last one; where stderr is no terminal, one line in ten seconds."""
    global _said
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", err=True, nl=False)
    elif text and time.monotonic() - _said >= SECONDS_PER_LINE:
        _said = time.monotonic()
        click.echo(text, err=True)


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise click.UsageError(f"--device {name!r} is not a device that torch knows") from error
    if device.type not in ("cpu", "cuda"):
        raise click.UsageError(f"--device {name!r}: mcscore has kernels for cpu and cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device (`mcscore env` says why)")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events and kernels go to the current device
    return device


@contextlib.contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
