"""The command line: import a pool, score it, select from the scores, report. Each verb is a thin call of the library.

Only click and the catalogue of names are imported up front: `--help` answers without torch. Exit codes: 0 done, 1 failed,
2 wrong usage, 3 stopped but resumable.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .acquisition import INPUTS, LINKS, SCORES, check_scores
from .report.text import count, duration
from .terminal import RESUMABLE, Verbs, answer, as_json, end, flag, progress_line

if TYPE_CHECKING:
    from .run import Run
    from .scorer import Scorer

DIVERSITY = ("radius", "none")  # the rows of mcscore.selection.DIVERSITY, which needs NumPy and FAISS to import


def _numbers(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 0.49,0.48,0.45") from error


def _names(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


def _either(_ctx: click.Context, _param: click.Parameter, value: str) -> str | float:
    if value in ("mean", "max"):
        return value
    try:
        return float(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither mean nor max nor a share of the pixels such as 0.1") from error


PATH = click.Path(path_type=Path)
PROBABILITY = click.FloatRange(0, 1, min_open=True, max_open=True)
COMMA = "COMMA,SEPARATED"


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mcscore")
@flag("traceback", "Show the Python traceback of an error (as MCSCORE_TRACEBACK=1 does).")
def main() -> None:
    """Which items of a huge unlabelled pool should a human label next?

    \b
    mcscore pool import images.npy pool.zarr
    mcscore score pool.zarr --model net.py:build --weights net.safetensors --out runs/a
    mcscore select runs/a -k 50 --by bald
    mcscore report runs/a
    """


# ---- pool ------------------------------------------------------------------------------------------------------------


@main.group()
def pool() -> None:
    """Make a pool of items on disk, and look at one."""


@pool.command("import")
@click.argument("src", type=PATH)
@click.argument("dst", type=PATH)
@click.option("--labels", type=PATH, help="Labels of the items, -1 where unlabelled: a .npy, .npz or idx array.")
@click.option(
    "--layout", type=click.Choice(["hw", "hwc", "chw"]), help="Axes of an image in SRC; stored as channels first."
)
@click.option("--mean", callback=_numbers, metavar=COMMA, help="Mean per channel, in units of [0, 1].")
@click.option("--std", callback=_numbers, metavar=COMMA, help="Standard deviation per channel, in units of [0, 1].")
@click.option("--classes", callback=_names, metavar=COMMA, help="Names of the classes, in order.")
@click.option("--key", help="Which array of an .npz holds the items.")
@as_json
def pool_import(src: Path, dst: Path, labels: Path | None, **options: Any) -> None:
    """Copy the array in SRC (.npy, .npz, or idx, also .gz) into a new pool at DST."""
    from .pool.importers import import_array

    made = import_array(src, dst, labels=labels, **options)
    facts = _pool_facts(made)
    answer(facts, f"{dst}: {made.n:,} items of {facts['dtype']} {facts['item_shape']}, {facts['labelled']:,} labelled")


@pool.command("info")
@click.argument("path", metavar="POOL", type=PATH)
@as_json
def pool_info(path: Path) -> None:
    """What POOL holds: items, labels, exclusions, classes, fingerprint."""
    from .pool import Pool

    facts = _pool_facts(Pool.open(path))
    answer(facts, *(f"{name:12} {'-' if value is None else value}" for name, value in facts.items()))


def _pool_facts(pool: Any) -> dict[str, Any]:
    return {
        "path": str(pool.path),
        "items": pool.n,
        "item_shape": list(pool.item_shape),
        "dtype": str(pool.dtype),
        "labelled": int((pool.labels >= 0).sum()),
        "excluded": int(pool.excluded.sum()),
        "keys": pool.keys is not None,
        "classes": pool.classes,
        "mean": pool.mean,
        "std": pool.std,
        "source": pool.source,
        "fingerprint": pool.fingerprint,
    }


# ---- score -----------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("path", metavar="POOL", type=PATH)
@click.option(
    "--model",
    "spec",
    required=True,
    metavar="FILE.py:NAME",
    help="Function or class that builds the model, or package.module:NAME.",
)
@click.option("--weights", type=PATH, help="Its weights: .safetensors, or a .pt state dict.")
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="Directory of the run; if it is there, the run is taken up where it stopped.",
)
@click.option(
    "--passes",
    type=click.IntRange(1, 65536),
    default=100,
    show_default=True,
    help="Stochastic forward passes per item.",
)
@click.option(
    "--scores",
    callback=_names,
    default="bald,entropy",
    show_default=True,
    metavar=COMMA,
    help=f"Out of {', '.join(SCORES)}.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Seed of the dropout masks."
)
@click.option(
    "--link", type=click.Choice(LINKS), default="softmax", show_default=True, help="How outputs become a distribution."
)
@click.option(
    "--input", type=click.Choice(INPUTS), default="logits", show_default=True, help="What the model's outputs are."
)
@click.option(
    "--masks",
    type=click.Choice(["independent", "shared"]),
    default="independent",
    show_default=True,
    help="A mask per item and pass, or one per pass for all items.",
)
@click.option("--sites", callback=_names, metavar=COMMA, help="Dropout sites to use, by name; default: all.")
@click.option("--p", type=PROBABILITY, help="A drop probability for all sites, instead of the model's own.")
@click.option("--weight-dropout", type=PROBABILITY, help="For a model without dropout: drop its weights instead.")
@click.option("--noise-variance", type=float, help="Known variance of the noise, for --link gaussian.")
@click.option(
    "--reduction",
    callback=_either,
    default="mean",
    show_default=True,
    help="Of pixel scores to one per item: mean, max, or the share of highest pixels to average.",
)
@click.option("--device", help="Such as cpu or cuda:0; default: cuda if there is one.")
@click.option("--span", type=click.IntRange(1), help="Items scored and committed as one unit; default: chosen for you.")
@click.option("--labelled", is_flag=True, help="Score labelled items too, to look for wrong labels.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@as_json
@click.pass_context
def score(
    ctx: click.Context,
    path: Path,
    spec: str,
    weights: Path | None,
    out: Path,
    span: int | None,
    labelled: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Score the unlabelled items of POOL with a model that has dropout. Ctrl-C stops; the same command goes on."""
    try:
        check_scores(settings["scores"], settings["link"], settings["noise_variance"])
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    from .pool import Pool
    from .run import Stopped, score_pool

    try:
        opened = Pool.open(path)
        scorer = _scorer(spec, weights, **settings)
        with progress_line(scorer.passes, quiet) as progress:
            run = score_pool(opened, scorer, out, span=span, labelled=labelled, progress=progress)
    except Stopped as stop:
        end(ctx, RESUMABLE, f"{stop}; the same command goes on", "Stopped", done=stop.done, items=stop.total)
    except KeyboardInterrupt:  # before the first item
        end(ctx, RESUMABLE, "stopped before an item was scored; the same command starts again", "Stopped")
    facts = _run_facts(run)
    answer(
        facts,
        f"{out}: {run.scored:,} items scored with {scorer.passes} passes in {duration(run.seconds)} ({run.items_per_second:,.0f} items/s)"
        + (f", {facts['nonfinite']:,} without a finite score" if facts["nonfinite"] else ""),
        f"next: mcscore select {out} -k 50 --by {scorer.scores[0]}",
    )


@main.command()
@click.argument("path", metavar="POOL", type=PATH)
@click.option("--model", "spec", required=True, metavar="FILE.py:NAME", help="As for `score`.")
@click.option("--weights", type=PATH, help="As for `score`.")
@click.option("--passes", type=click.IntRange(1, 65536), default=100, show_default=True, help="As for `score`.")
@click.option("--sites", callback=_names, metavar=COMMA, help="As for `score`.")
@click.option("--p", type=PROBABILITY, help="As for `score`.")
@click.option("--weight-dropout", type=PROBABILITY, help="As for `score`.")
@click.option("--device", help="As for `score`.")
@as_json
def plan(path: Path, spec: str, weights: Path | None, **settings: Any) -> None:
    """Show how POOL would be scored: dropout sites, what runs once, how the passes run, step and memory."""
    from .pool import Pool

    opened = Pool.open(path)
    scorer = _scorer(spec, weights, **settings)
    scorer.normalise(opened.mean, opened.std)
    text = scorer.plan(opened.read(0, min(opened.n, 256)))
    described = scorer.describe()
    answer({"sites": described["sites"], "plan": described["plan"], "model": described["model"]}, text)


def _scorer(spec: str, weights: Path | None, *, device: str | None, **settings: Any) -> Scorer:
    """The model built and given to a Scorer; on the GPU where there is one and nothing else is asked."""
    import torch

    from .loading import load_model
    from .scorer import Scorer

    loaded = load_model(spec, weights)
    return Scorer(
        loaded.module,
        transform=loaded.transform,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        spec=loaded.spec,
        weights=loaded.weights,
        **settings,
    )


def _run_facts(run: Run) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "items": run.n,
        "done": run.done,
        "scored": run.scored,
        "complete": run.complete,
        "nonfinite": len(run.nonfinite_ids),
        "seconds": run.seconds,
        "items_per_second": run.items_per_second,
        "scores": list(run.meta["scores"]),
    }


# ---- select, report --------------------------------------------------------------------------------------------------


@main.command()
@click.argument("path", metavar="RUN", type=PATH)
@click.option("-k", type=click.IntRange(1), required=True, help="How many items.")
@click.option("--by", type=click.Choice(list(SCORES)), help="The score to select by; default: the run's first.")
@click.option(
    "--diversity",
    type=click.Choice(DIVERSITY),
    default="radius",
    show_default=True,
    help="radius: no two selected items closer than r. none: the best k.",
)
@click.option("--radius", type=click.FloatRange(min=0), help="r; default: as large as K items allow.")
@click.option("--candidates", type=click.IntRange(1), help="Best items to select from; default 10 K.")
@click.option("--partial", is_flag=True, help="Select though the run is not complete.")
@click.option("--pool", "pool_path", type=PATH, help="Where the pool is now; default: as recorded by `score`.")
@click.option("--model", "spec", metavar="FILE.py:NAME", help="Where the model is now; default: as recorded.")
@click.option("--weights", type=PATH, help="Where its weights are now; default: as recorded.")
@click.option("--embedding", metavar="MODULE", help="Whose output is compared; default: input of the last Linear.")
@click.option("--device", help="Where to compute embeddings; default: cuda if there is one.")
@as_json
def select(
    path: Path,
    k: int,
    by: str | None,
    diversity: str,
    pool_path: Path | None,
    spec: str | None,
    weights: Path | None,
    embedding: str | None,
    device: str | None,
    **choice: Any,
) -> None:
    """Choose K diverse items of RUN with high scores, and write them to RUN/selection-BY-K.parquet."""
    if diversity == "none" and choice["radius"] is not None:
        raise click.UsageError("--radius belongs to --diversity radius")
    from .pool import Pool
    from .run import Run

    run = Run.open(path)
    by = run.check_score(by or run.meta["scores"][0])
    pool = Pool.open(pool_path) if pool_path else None
    scorer = None if diversity == "none" else _same_model(run, spec, weights, device, embedding)
    chosen = run.select(k, by, diversity, scorer=scorer, pool=pool, **choice)
    file = path / f"selection-{by}-{k}.parquet"
    facts = {"run": str(path), "file": str(file), "by": by, "k": k, "diversity": chosen.method, "radius": chosen.radius}
    apart = f", further than {chosen.radius:.4g} apart" if chosen.radius is not None else ""
    best, least = chosen.scores.max(), chosen.scores.min()
    answer(
        {**facts, "ids": chosen.ids.tolist(), "scores": chosen.scores.tolist()},
        f"{file}: {count(k, 'item')} by {by}, {best:.4g} down to {least:.4g}{apart}",
        f"next: mcscore report {path}",
    )


def _same_model(run: Run, spec: str | None, weights: Path | None, device: str | None, embedding: str | None) -> Scorer:
    """The model that scored ``run``, built again and checked against the recorded fingerprint."""
    recorded = run.meta["model"]
    spec, weights = spec or recorded["spec"], weights or recorded["weights"]
    if spec is None:
        raise click.UsageError(
            f"{run.path} was scored from Python and records no model file: give --model and --weights, or --diversity none"
        )
    scorer = _scorer(spec, weights, device=device, embedding=embedding)  # embeddings need nothing of how it was scored
    if scorer.fingerprint != recorded["fingerprint"]:
        raise ValueError(
            f"{spec} {f'with {weights}' if weights else 'as built, without --weights,'} is not the model that scored "
            f"{run.path}: its fingerprint is {scorer.fingerprint}, recorded is {recorded['fingerprint']}"
            + ("" if weights else "; a model built with fresh random weights differs each time")
        )
    return scorer


@main.command()
@click.argument("path", metavar="RUN", type=PATH)
@click.option("--out", type=PATH, help="The page to write; default RUN/report.html.")
@click.option("--selection", type=PATH, help="A selection file of RUN; default: the newest.")
@click.option("--pool", "pool_path", type=PATH, help="Where the pool is now; default: as recorded by `score`.")
@as_json
def report(path: Path, out: Path | None, selection: Path | None, pool_path: Path | None) -> None:
    """Write RUN and its newest selection as one self-contained HTML page."""
    from .pool import Pool
    from .report import write_report
    from .run import Run

    page = write_report(Run.open(path), Pool.open(pool_path) if pool_path else None, out, selection=selection)
    answer({"run": str(path), "report": str(page)}, str(page))


# ---- env, demo -------------------------------------------------------------------------------------------------------


@main.command()
@as_json
def env() -> None:
    """Versions, machine, and which kernels are active here (and why the others are not)."""
    from . import env as environment

    facts = environment.describe()
    answer(facts, environment.text(facts))


@main.command()
@click.option(
    "--out",
    type=PATH,
    default=Path("demo-out"),
    show_default=True,
    help="Where to write; a former demo there is replaced.",
)
@click.option("--seeds", type=click.IntRange(1), help="How many times from other first labels.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds of labelling.")
@click.option("--passes", type=click.IntRange(1, 65536), help="Stochastic forward passes per item.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@as_json
def demo(out: Path, quiet: bool, **sizes: int | None) -> None:
    """The whole active-learning cycle on scikit-learn's handwritten digits, beside random labels."""
    from .demo import main as run_demo

    given = {name: value for name, value in sizes.items() if value is not None}
    if not click.get_current_context().meta.get("json"):
        run_demo(out, quiet=quiet, **given)
        return
    with contextlib.redirect_stdout(sys.stderr):
        facts = run_demo(out, quiet=quiet, **given)
    answer(facts)


if __name__ == "__main__":
    main()
