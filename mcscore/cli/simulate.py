"""mcscore simulate: how long a run by many workers takes, before it is started."""

from __future__ import annotations

import dataclasses
import math

import click

from ..simulate import WAYS, Cluster, Outcome, Way
from ..simulate import simulate as simulated
from ..text import count, duration
from .options import whole
from .terminal import as_json, emit

_CLOSE = 0.02  # of efficiency: a driver is preferred to shards that gain no more, as it needs no shared directory
_PRECISE = 10_000_000  # spans that are simulated in about a minute and 2 GB


@click.command(short_help="Tell how long a run by many workers takes, and what spans suit it.")
@click.option("--items", callback=whole, metavar="N", required=True, help="Items in the pool, such as 1e9.")
@click.option("--workers", type=click.IntRange(1, 1_000_000), required=True, help="Workers, one for each device.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), required=True, help="Items that a worker scores in a second."
)
@click.option(
    "--span", "spans", callback=lambda ctx, param, given: [whole(ctx, param, each) for each in given], multiple=True,
    metavar="N", help="Items per span; may be given several times; default: what suits the way.",
)  # fmt: skip
@click.option("--way", type=click.Choice(WAYS), help="Simulate only this way; default: both.")
@click.option(
    "--commit", type=click.FloatRange(0), default=Cluster.commit, show_default=True,
    help="Seconds that the commit of a span takes.",
)  # fmt: skip
@click.option(
    "--call", type=click.FloatRange(0), default=Cluster.call, show_default=True,
    help="Seconds that a driver spends on a span beside its commit.",
)  # fmt: skip
@click.option(
    "--slow", type=click.FloatRange(0, 1), default=Cluster.slow, show_default=True, help="Share of slow workers."
)
@click.option(
    "--slowdown", type=click.FloatRange(1), default=Cluster.slowdown, show_default=True,
    help="How many times slower these are.",
)  # fmt: skip
@click.option(
    "--deaths", type=click.FloatRange(0, min_open=True), default=math.inf,
    help="Seconds from one death of any worker to the next, on average; default: none dies.",
)  # fmt: skip
@click.option(
    "--restart", type=click.FloatRange(0), default=Cluster.restart, show_default=True,
    help="Seconds until a dead worker works again.",
)  # fmt: skip
@click.option("--alone", is_flag=True, help="Let no worker take over from others at the end.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides who is slow and who dies when."
)
@as_json
def simulate(
    spans: list[int], way: Way | None, alone: bool, seed: int, items: int, workers: int, rate: float, **costs: float
) -> None:
    """Tell how long a run by many workers takes, and which spans and way suit it, by a simulation.

    \b
    driver  one process hands out spans and commits them all: `score --workers`, `score --ray`
    shards  each worker commits its own, then helps others: `score --shard`
    """  # noqa: D301  (click leaves the lines after a backspace as they are)
    cluster = Cluster(items, workers, rate, **costs)
    cases = [(each, span) for each in ([way] if way else WAYS) for span in spans or [cluster.span(each)]]
    if (most := max(math.ceil(items / span) for _, span in cases)) > _PRECISE:
        raise ValueError(f"{most:,} spans are too many to simulate, and to commit: choose a larger --span")
    outcomes = [simulated(cluster, each, span, help=not alone, seed=seed) for each, span in cases]
    best = _recommended(outcomes)
    facts = {
        "shortest_seconds": cluster.shortest,
        "outcomes": [dataclasses.asdict(each) for each in outcomes],
        "recommended": {"way": best.way, "span": best.span},
    }
    head = (
        f"{count(items, 'item')}, {count(workers, 'worker')} of {rate:,g} items/s: {duration(cluster.shortest)} at best"
    )
    emit(facts, head, "", _HEADING, *map(_line, outcomes), "", _told(best, cluster))


def _recommended(outcomes: list[Outcome]) -> Outcome:
    """The most efficient; a driver if it comes close to that."""
    most = max(each.efficiency for each in outcomes)
    drivers = [each for each in outcomes if each.way == "driver" and each.efficiency >= most - _CLOSE]
    return max(drivers or outcomes, key=lambda each: each.efficiency)


_HEADING = (
    f"{'way':6} {'span':>9} {'spans':>9} {'time':>9} {'efficiency':>10} {'commits/s':>9} {'driver busy':>11} "
    f"{'repeated':>8} {'lost':>6}"
)


def _line(x: Outcome) -> str:
    driver = f"{x.driver:.0%}" if x.way == "driver" else "-"
    return (
        f"{x.way:6} {x.span:9,} {x.spans:9,} {duration(x.seconds):>9} {x.efficiency:10.1%} {x.commits:9.1f} {driver:>11} "
        f"{x.repeated:8,} {x.lost:6,}"
    )


def _told(best: Outcome, cluster: Cluster) -> str:
    each = cluster.commit + cluster.call
    limit = f"; a driver commits {1 / each:,.0f} spans/s at most" if each else ""
    return f"recommended: {best.way}, --span {best.span}{limit}"
