"""What is said of Ray without a cluster."""

from __future__ import annotations

import sys

import pytest

from mcscore import RayWorkers
from mcscore.errors import RunError
from mcscore.run import scoring


def test_where_ray_is_not_installed_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "mcscore.run.scoring.ray_cluster", raising=False)
    monkeypatch.delattr(scoring, "ray_cluster", raising=False)
    with pytest.raises(RunError, match=r"Ray is not installed: pip install 'mcscore\[ray\]'"):
        RayWorkers().size("cpu")


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(RunError, match="need a positive max_workers, got 0"):
        RayWorkers(max_workers=0)
    with pytest.raises(RunError, match="need a positive timeout, got -1"):
        RayWorkers(timeout=-1)
    with pytest.raises(RunError, match="cannot have num_cpus=-1"):
        RayWorkers(num_cpus=-1)


def test_an_address_of_ray_client_and_one_of_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ray_cluster = pytest.importorskip("mcscore.run.scoring.ray_cluster", exc_type=ImportError)
    with pytest.raises(RunError, match="an address of Ray Client, which mcscore does not use"):
        ray_cluster.connect("ray://head:10001")
    with pytest.raises(RunError, match=r"there is no Ray cluster to connect to at '127\.0\.0\.1:1'"):
        ray_cluster.connect("127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RunError, match=r"at 'auto': .*refused"):
        ray_cluster.connect("auto")
