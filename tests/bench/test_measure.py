"""Each case compares like with like: baselines give the oracle's values, and wrong results are seen for what they are."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from mcscore.acquisition import oracle_scores
from mcscore.bench import baselines, cases, table
from mcscore.bench.clock import CpuClock
from mcscore.bench.measure import Bench, Row, measure_ceilings
from mcscore.bench.shapes import Spec, default_specs, specs
from mcscore.kernels.roofline import Ceilings, Roofline

CPU = torch.device("cpu")
SMALL = [
    "T7xB33xC10",
    "T7xB9xC11xerrors",
    "T2xB3xC1001",
    "T5xB9xE13xI4xP0.25",
    "T5xB9xE130xI1xP0.3",
    "T5xB9xR131",
    "T5xB9xR130xnormal",
    "T6xB5xD70xC11xP0.5",
    "T6xB5xD70xC11xP0.25xshared",
    "T6xB5xD70xC30xP0.5xown",
    "T6xB5xL3xD35xC30xP0.3",
    "T6xB5xD70xC11xP0.5xerrors",
    "N5000xK100",
    "N5000xK100xQ7",
    "N5xK100",
]
EVERY = [spec for text in SMALL for spec in specs(text)]


@pytest.fixture(autouse=True)
def _small_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "CPU_BYTES", 1 << 16)
    monkeypatch.setattr(cases, "CPU_OUTPUT", 1 << 16)


@pytest.fixture(scope="module")
def bench() -> Bench:
    ceilings = dict.fromkeys((torch.float32, torch.bfloat16, torch.float16), Ceilings(copy=1e9, matmul=1e10))
    return Bench(CPU, CpuClock(least=1e-4), ceilings, compile=False, seconds=1e-3)


@pytest.mark.parametrize("spec", EVERY, ids=str)
def test_every_kernel_is_right_and_its_row_adds_up(bench: Bench, spec: Spec) -> None:
    row = bench.measure(spec)
    assert row.right
    assert row.items_per_s == pytest.approx(row.items / row.seconds)
    work = cases.build(spec, CPU).work
    assert row.GB_per_s == pytest.approx(work.bytes / row.seconds / 1e9)
    assert row.GFLOP_per_s == pytest.approx(work.flops / row.seconds / 1e9)
    assert row.percent_of_roof == pytest.approx(100 * max(work.bytes / 1e9, work.flops / 1e10) / row.seconds)
    assert row.times_compile is None
    assert (row.times_floor is None) == (cases.KERNELS[spec.kernel].floor == "")
    assert min(row.times_eager, row.percent_of_roof) > 0
    json.dumps(row.to_dict(), allow_nan=False)


@pytest.mark.parametrize("spec", [spec for spec in EVERY if spec.kernel != "top_k"], ids=str)
def test_errors_in_any_item_that_is_looked_at_are_seen(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last item of ours is spoiled a little more than rounding could."""
    targets = {
        "score_logits": (cases, "score_logits"),
        "moments": (cases.Moments, "compute"),
        "dropout": (cases.dropout, "masked_passes"),
        "draw": (cases.draws, "draw_passes"),
        "dropout_linear": (cases.linear, "linear_passes"),
        "dropout_head": (cases.head, "dropout_head"),
    }
    where, name = targets[spec.kernel]
    true = getattr(where, name)

    def spoiled(*args: object, **kwargs: object) -> object:
        result = true(*args, **kwargs)
        if isinstance(result, dict):
            result["bald"][-1] += 1e-3
        else:
            result[:, -1] *= 1 + 1e-3
        return result

    case = cases.build(spec, CPU)
    assert case.error() <= case.tolerance
    monkeypatch.setattr(where, name, spoiled)
    assert cases.build(spec, CPU).error() > case.tolerance


def test_a_wrong_selection_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcscore.selection.topk import TopK

    result = TopK.result

    def off_by_one(self: TopK) -> tuple[np.ndarray, np.ndarray]:
        ids, scores = result(self)
        return np.append(ids[:-1], ids[-1] + 1), scores

    case = cases.build(*specs("N5000xK100xQ7"), CPU)
    monkeypatch.setattr(TopK, "result", off_by_one)
    assert case.error() == 1


def test_nan_is_not_right() -> None:
    row = Row("score_logits", "T1", "float32", 1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, None, None, None, None, math.nan, 1e-5)
    assert not row.right
    assert row.to_dict()["error"] is None
    assert "WRONG" in table.line(row)
    assert dataclasses.replace(row, error=1e-5).right


def test_lines_fit_a_terminal_of_a_hundred_columns() -> None:
    figures = (1000, 0.002, 5e5, 2500.0, 80.0, 87.5, 12.3, 4.56, None, 1 << 20, 1 << 30, 1e-7, 2e-5)
    lines = [*table.LEGEND, table.roof_line({torch.float32: Ceilings(15.9e9, 82.7e9)})]
    for spec in default_specs("cpu"):
        row = Row(spec.kernel, str(spec.shape), spec.dtype, *figures)
        lines += [*table.heading(spec.kernel), table.line(row)]
    assert max(map(len, lines)) <= 100


def test_inputs_are_random_and_many_enough_to_leave_the_caches() -> None:
    case = cases.build(*specs("T2xB3xC10", only=("score_logits",)), CPU)
    assert len(case.inputs) == -(-(1 << 16) // (2 * 3 * 10 * 4))
    assert len({float(logits.sum()) for (logits,) in case.inputs}) == len(case.inputs)
    large = cases.build(*specs("T2xC10", only=("score_logits",)), CPU)
    assert large.items == (1 << 16) // 80 // 16 * 16
    assert len(large.inputs) == 2


def test_without_a_kernel_there_is_no_case() -> None:
    with pytest.raises(cases.NoKernel, match="dropout_linear of bfloat16 features to 11 outputs has no kernel on cpu"):
        cases.build(*specs("T6xB5xD70xC11", ("bfloat16",), ("dropout_linear",)), CPU)


def test_ceilings_have_a_product_for_every_dtype() -> None:
    ceilings = measure_ceilings(CPU, CpuClock(least=1e-4))
    assert set(ceilings) == {torch.float32, torch.float16, torch.bfloat16}
    for ceiling in ceilings.values():
        assert 1e8 < ceiling.copy < 1e13
        assert 1e8 < ceiling.matmul < 1e14
    assert Roofline(bytes=int(ceiling.copy), flops=0).percent(2.0, ceiling) == pytest.approx(50, rel=1e-3)


# ---- the baselines ------------------------------------------------------------------------------------------------


def test_baseline_scores_are_the_oracle_s() -> None:
    logits = 3 * torch.randn(8, 12, 9)
    truth = oracle_scores(logits, ("bald", "entropy"))
    bald, entropy = baselines.bald_and_entropy(logits)
    torch.testing.assert_close(bald.double(), truth["bald"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(entropy.double(), truth["entropy"], atol=1e-6, rtol=1e-5)
    p, h = torch.zeros(12, 9), torch.zeros(12)
    for part in logits.split(3):
        baselines.add_passes(part, p, h)
    streamed = torch.special.entr(p / 8).sum(-1) - h / 8
    torch.testing.assert_close(streamed.double(), truth["bald"], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "gaussian"])
@pytest.mark.parametrize("pixels", [(), (3, 2)])
def test_baseline_disagreement_is_the_oracle_s(likelihood: str, pixels: tuple[int, ...]) -> None:
    outputs = 2 * torch.randn(6, 5, 1 if likelihood == "gaussian" else 4, *pixels)
    name = "variance" if likelihood == "gaussian" else "bald"
    truth = oracle_scores(outputs, (name,), likelihood)[name]
    torch.testing.assert_close(baselines.disagreement(outputs, likelihood).double(), truth, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("p", [0.25, 0.5])
def test_baseline_dropouts_keep_the_mean_and_drop_at_the_rate(p: float) -> None:
    x, weight, bias = torch.rand(4, 50) + 1, torch.randn(7, 50), torch.randn(7)
    y = baselines.dropout(x[None, :, :, None], 2000, p)
    assert y.shape == (2000, 4, 50, 1)
    assert float((y == 0).float().mean()) == pytest.approx(p, abs=0.01)
    channels = baselines.dropout(x[None, :, :, None].repeat(1, 1, 1, 3), 50, p).view(50, 4, 50, 3)
    assert torch.equal(channels[..., 0] == 0, channels[..., 2] == 0)  # a channel's values share their fate
    exact = nn.functional.linear(x, weight, bias)
    for linear in (baselines.dropout_linear, baselines.shared_dropout_linear):
        for copies in (x[None], x.expand(3000, 4, 50)):
            mean = linear(copies, weight, bias, 3000, p).mean(0)
            torch.testing.assert_close(mean, exact, atol=0.15 * float(exact.abs().max()), rtol=0)


def test_shared_masks_are_the_same_for_all_items() -> None:
    x = torch.randn(1, 50).expand(4, 50)
    y = baselines.shared_dropout_linear(x[None], torch.randn(7, 50), torch.zeros(7), 9, 0.5)
    torch.testing.assert_close(y, y[:, :1].expand_as(y))
    assert not torch.allclose(y[0], y[1])


def test_the_plain_loop_drops_and_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.Dropout(0.5), nn.Linear(20, 3)).eval()
    model[2].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(5, 6)
    assert (baselines.loop(model, lambda: model(x), 30) > 1e-4).all()
    assert [module.training for module in model] == [False, False, True, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_top_k_and_the_counting_pass() -> None:
    scores = np.random.default_rng(0).random(1000, np.float32)
    assert set(baselines.top_k(scores, 20).tolist()) == set(np.argsort(scores)[-20:].tolist())
    assert baselines.count_above(scores, 0.5, block=64) == int((scores > 0.5).sum())
