"""Tile sizes come from the table in code, and from a search only where one is asked for."""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources

from mcscore.kernels.triton import head as triton_head
from mcscore.kernels.triton import tune as triton_tune
from mcscore.kernels.triton.head import block_columns, plan_head
from mcscore.kernels.triton.launch import Launch
from mcscore.kernels.triton.tune import tuned
from mcscore.masks import MaskSpec, rate

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MCSCORE_AUTOTUNE", raising=False)
    monkeypatch.setattr(triton_tune, "_found", {})


def no_timing(launch: Launch) -> float:
    raise AssertionError("timed without being asked")


def test_the_table_is_used_as_it_is_unless_a_search_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_tune, "seconds", no_timing)
    assert tuned("k", (1,), 5, [6, 7], lambda n: n, GPU) == 5  # type: ignore[arg-type, return-value]
    x, weight = torch.empty(4096, 768, device="meta"), torch.empty(10, 768, device="meta")
    monkeypatch.setenv(
        "MCSCORE_AUTOTUNE", "1"
    )  # no GPU, no search: the meta device stands for machines that are not there
    launches, _ = plan_head(
        x, MaskSpec(0, 0, range(20), range(4096), rate(0.5)), weight, None, ("bald",), "categorical"
    )
    rows, depth, _, _ = triton_head._HEAD[4, 2][16]
    assert (launches[0].meta["ROWS"], launches[0].meta["COLUMNS"], launches[0].meta["DEPTH"]) == (rows, 16, depth)


def test_a_search_takes_the_fastest_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timed = []
    monkeypatch.setattr(triton_tune, "seconds", lambda launch: timed.append(launch) or abs(launch - 70) * 1e-6)
    monkeypatch.setenv("MCSCORE_AUTOTUNE", "1")
    for _ in range(2):
        assert tuned("k", (10, 768), 5, [60, 5, 90], lambda n: n + 1, GPU) == 60  # type: ignore[arg-type, return-value]
    assert timed == [6, 61, 91]
    assert capsys.readouterr().err == "mcscore: k (10, 768): 60 takes 9.0 us, the table's 5 64.0 us\n"


def test_a_kernel_too_large_for_the_gpu_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        def __init__(self, enable_timing: bool) -> None:
            pass

    class TooLarge:
        def run(self) -> None:
            raise OutOfResources(300_000, 232_448, "shared memory")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert triton_tune.seconds(TooLarge()) == float("inf")  # type: ignore[arg-type]


@pytest.mark.parametrize(("itemsize", "tiles"), list(itertools.product((2, 4), (2, 5))))
def test_the_table_has_a_block_for_every_width(itemsize: int, tiles: int) -> None:
    for C in range(1, 300):
        columns = block_columns(C)
        assert columns >= min(C, 128)
        rows, *_ = triton_head._HEAD[itemsize, tiles][columns]
        assert rows * columns * tiles <= 128 * 256 * (1 if itemsize == 2 else 1.5)
        assert columns in triton_head._LINEAR[itemsize]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_search_on_the_device_keeps_the_scores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mcscore.kernels.triton.head import dropout_head
    from mcscore.kernels.triton.score import score

    x, weight = torch.randn(500, 256, device="cuda").half(), torch.randn(10, 256, device="cuda").half() / 16
    spec = MaskSpec(0, 0, torch.arange(5, device="cuda"), torch.arange(500, device="cuda"), rate(0.5))
    head = x, spec, weight, None
    logits = torch.randn(5, 300, 1000, device="cuda")
    before = dropout_head(*head, ("bald",), "categorical")["bald"], score(logits, ("bald",), "categorical")["bald"]
    monkeypatch.setenv("MCSCORE_AUTOTUNE", "1")
    after = dropout_head(*head, ("bald",), "categorical")["bald"], score(logits, ("bald",), "categorical")["bald"]
    assert capsys.readouterr().err.count("mcscore: ") == 2
    for ours, table in zip(after, before, strict=True):
        torch.testing.assert_close(ours, table, rtol=0, atol=1e-5)
