"""A simulated run by many workers: closed forms where there are some, a published table, and what must hold of every run."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcscore.simulate import WAYS, Cluster, Way, simulate

# Of 1,000 workers, 1 % of them three times slower, with a call of 1.7 ms and a commit of 4 ms: efficiency of a driver without and with
# repeats at the end, and of shards without and with help. Another program's figures, of which its model of help is not known.
TABLE = [
    (10**9, 500, 16 << 10, math.inf, (0.96, 0.97, 0.31, 0.95)),
    (10**9, 500, 64 << 10, math.inf, (0.84, 0.92, 0.32, 0.87)),
    (10**9, 5000, 16 << 10, math.inf, (0.60, 0.59, 0.31, 0.93)),
    (10**9, 5000, 64 << 10, math.inf, (0.84, 0.92, 0.32, 0.86)),
    (10**10, 500, 64 << 10, math.inf, (0.98, 0.99, 0.32, 0.97)),
    (10**10, 5000, 64 << 10, 180.0, (None, 0.99, None, 0.97)),
]


@pytest.mark.parametrize(("items", "rate", "span", "deaths", "efficiencies"), TABLE)
def test_a_thousand_workers(items: int, rate: float, span: int, deaths: float, efficiencies: tuple[float, ...]) -> None:
    cluster = Cluster(items, 1000, rate, commit=0.004, call=0.0017, slow=0.01, slowdown=3, deaths=deaths)
    for (way, help), expected in zip(
        [(way, help) for way in WAYS for help in (False, True)], efficiencies, strict=True
    ):
        if expected is not None:
            found = simulate(cluster, way, span, help)
            assert abs(found.efficiency - expected) < 0.05, (way, help)
            assert (found.lost > 0) == (deaths < math.inf)


def test_one_worker_takes_the_time_of_its_items_and_commits() -> None:
    cluster = Cluster(10_050, 1, 50.0, commit=0.25, call=0.125)
    driver, shard = simulate(cluster, "driver", 100), simulate(cluster, "shards", 100)
    assert driver.spans == shard.spans == 101
    assert driver.seconds == pytest.approx(10_050 / 50 + 0.125 + 0.25)  # all other commits are made while it scores
    assert shard.seconds == pytest.approx(10_050 / 50 + 101 * 0.25)
    assert driver.driver == pytest.approx(101 * 0.375 / driver.seconds)
    assert shard.driver == driver.repeated == shard.repeated == 0
    assert driver.efficiency == pytest.approx(10_050 / 50 / driver.seconds)


@pytest.mark.parametrize(("commit", "call"), [(0.004, 0.0017), (0.036, 0.0017), (0.12, 0.0)])
def test_a_driver_commits_no_more_than_it_can(commit: float, call: float) -> None:
    busy = simulate(Cluster(10**8, 1000, 1e6, commit=commit, call=call), "driver", 1000)
    assert busy.commits == pytest.approx(1 / (commit + call), rel=0.02)
    assert busy.driver > 0.99
    # Half as busy as it could be: 2 W rate t_commit items in a span.
    half = int(2 * 1000 * 5.0 * (commit + call)) or 1
    assert simulate(Cluster(10**6, 1000, 5.0, commit=commit, call=call), "driver", half).driver < 0.55


def test_without_help_shards_wait_for_the_slowest() -> None:
    cluster = Cluster(1_000_000, 100, 10.0, commit=0, call=0, slow=0.01, slowdown=3)
    assert simulate(cluster, "shards", 100, help=False).efficiency == pytest.approx(1 / 3)
    assert simulate(cluster, "shards", 100).efficiency > 0.95
    assert simulate(dataclasses.replace(cluster, slow=0.004), "shards", 100, help=False).efficiency == pytest.approx(1)


@pytest.mark.parametrize("way", WAYS)
def test_one_that_hangs_costs_no_more_than_its_share(way: Way) -> None:
    cluster = Cluster(100_000, 10, 10.0, commit=0, call=0, slow=0.1, slowdown=10**6)
    found = simulate(cluster, way, 100)
    assert 100_000 / 90 <= found.seconds <= 100_000 / 90 + 3 * 100 / 10
    assert simulate(cluster, way, 100, help=False).seconds >= 10**6 * 100 / 10


@pytest.mark.parametrize("mean", [5.0, 20.0])
def test_deaths_cost_what_the_exponential_law_says(mean: float) -> None:
    # A span of 10 s, of which every start is lost with probability 1 - exp(-10 / mean).
    cluster = Cluster(2000 * 100, 1, 10.0, commit=0, call=0, deaths=mean, restart=7.0)
    found = simulate(cluster, "shards", 100)
    per_span = (math.exp(10 / mean) - 1) * (mean + 7)
    assert found.seconds / found.spans == pytest.approx(per_span, rel=0.06)
    assert found.lost / found.spans == pytest.approx(math.exp(10 / mean) - 1, rel=0.06)


@given(
    items=st.integers(1, 5000),
    workers=st.integers(1, 12),
    span=st.integers(1, 700),
    commit=st.sampled_from([0.0, 0.1, 3.0]),
    slow=st.sampled_from([0.0, 0.3, 1.0]),
    deaths=st.sampled_from([math.inf, 40.0, 400.0]),
    way=st.sampled_from(WAYS),
    help=st.booleans(),
    seed=st.integers(0, 3),
)
@settings(deadline=None)
def test_every_run_ends_and_none_is_faster_than_possible(
    items: int, workers: int, span: int, commit: float, slow: float, deaths: float, way: Way, help: bool, seed: int
) -> None:
    cluster = Cluster(items, workers, 100.0, commit=commit, slow=slow, deaths=deaths, restart=1.0)
    found = simulate(cluster, way, span, help, seed)
    spans = math.ceil(items / span)
    assert found.spans == spans
    assert 0 < found.efficiency <= 1 + 1e-9
    if way == "driver":
        assert found.seconds >= spans * (commit + cluster.call) - 1e-6
        assert found.driver <= 1 + 1e-9
    if not help:
        assert found.repeated == 0
    if deaths == math.inf:
        assert found.lost == 0
    assert simulate(cluster, way, span, help, seed) == found


def test_spans_follow_the_rule() -> None:
    # 60 spans for each worker, if commits leave a driver idle half of the time
    assert Cluster(10**9, 1000, 500, commit=0.004).span("driver") == 16_384
    # else as many as they allow: 2 W rate t_commit = 57,000 and 377,000
    assert Cluster(10**9, 1000, 5000, commit=0.004).span("driver") == 65_536
    assert Cluster(10**9, 1000, 5000, commit=0.036).span("driver") == 2**19
    assert Cluster(10**9, 1000, 5000, commit=0.036).span("shards") == 16_384
    assert (
        Cluster(10**9, 1000, 50_000, commit=0.036).span("shards") == 65_536
    )  # a commit of a shard: 2 % of the time of 90,000
    assert Cluster(100, 3, 1.0).span("driver") == 100


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"items": 0}, "items must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"rate": 0.0}, "rate must be > 0"),
        ({"deaths": math.nan}, "deaths must be > 0"),
        ({"commit": -1.0}, "commit must be finite and >= 0 seconds"),
        ({"slow": 1.5}, r"slow must be a share in \[0, 1\]"),
        ({"slowdown": 0.5}, "slowdown at least 1"),
    ],
)
def test_what_no_cluster_has_is_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Cluster(**{"items": 10, "workers": 2, "rate": 1.0, **wrong})  # type: ignore[arg-type]


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(ValueError, match="span must be at least 1"):
        simulate(Cluster(10, 2, 1.0), "driver", 0)
    with pytest.raises(ValueError, match="no way 'ray'; choose from driver, shards"):
        simulate(Cluster(10, 2, 1.0), "ray")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hardly a span of 1,000 items is ever scored, as one takes 1e"):
        simulate(Cluster(10_000, 2, 1.0, deaths=1.0), "shards", 1000)
