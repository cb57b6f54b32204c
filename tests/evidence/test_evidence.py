"""The experiments' tools say what is true of made-up results, and every experiment has all that the command asks of it."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from benchmarks.evidence import EXPERIMENTS, curves, experiment, stats, written
from benchmarks.evidence.data import Images, NoDataError, folder
from benchmarks.evidence.kept import kept, write
from mcscore.cycle import Round

ROOT = Path(__file__).resolve().parents[2]


def rounds(accuracies: list[float], seconds: float = 3.0) -> list[Round]:
    """A cycle that labels 10 items in each round, from 20."""
    ids = [np.arange(10) if n + 1 < len(accuracies) else np.empty(0, np.int64) for n in range(len(accuracies))]
    return [
        Round(n, 20 + 10 * n, value, ids[n], ids[n], seconds, None, {"accuracy": value, "nll": 1 - value}, None, "")
        for n, value in enumerate(accuracies)
    ]


@pytest.fixture
def found() -> dict[str, Any]:
    return curves.of_cycles(
        {
            "BALD": [rounds([0.5, 0.7, 0.9]), rounds([0.5, 0.8, 0.9]), rounds([0.4, 0.6, 0.8])],
            "random": [rounds([0.5, 0.6, 0.7]), rounds([0.5, 0.6, 0.7]), rounds([0.4, 0.6, 0.8])],
        }
    )


def test_permutation_test_counts_all_ways_to_swap() -> None:
    assert stats.permutation_test([1.0, 2.0, 3.0]) == 1 / 8
    assert stats.permutation_test([1.0, 2.0, -3.0]) == 5 / 8
    assert stats.permutation_test([-1.0, -2.0]) == 1.0


def test_permutation_test_of_many_pairs_draws_them_and_is_never_zero() -> None:
    assert stats.permutation_test(np.ones(40)) == 1e-5
    assert stats.permutation_test(np.tile([1.0, -1.0], 20)) == pytest.approx(0.56, abs=0.02)


def test_rate_of_failure_is_how_often_other_seeds_lie_below() -> None:
    pairs_R2S = np.random.default_rng(0).normal(0.5, 1, (2000, 2, 6))  # a run of six seeds, and another
    rates = np.array([stats.rate_of_failure(first - second.mean()) for first, second in pairs_R2S])
    assert np.mean(rates < 0.1) == pytest.approx(0.1, abs=0.02)
    assert np.mean(rates < 0.5) == pytest.approx(0.5, abs=0.04)
    assert stats.rate_of_failure([0.2, 0.2]) == 0.0
    assert stats.rate_of_failure([-0.2, -0.2]) == 1.0


def test_area_is_the_mean_height_over_unequal_steps() -> None:
    assert stats.area([0, 10, 40], [[1.0, 1.0, 3.0], [0.0, 2.0, 2.0]]).tolist() == [1.75, 1.75]


def test_labels_to_an_error_none_reached() -> None:
    assert stats.labels_to([20, 30, 40], [0.5, 0.4, 0.3], 0.2) is None
    assert stats.labels_to([20, 30, 40], [0.5, 0.2, 0.3], 0.2) == 30


def test_average_precision_is_scikit_learns_without_ties() -> None:
    from sklearn.metrics import average_precision_score, ndcg_score

    rng = np.random.default_rng(1)
    score, grade = rng.random(57), rng.integers(0, 3, 57)
    assert stats.average_precision(score, grade > 0) == pytest.approx(average_precision_score(grade > 0, score))
    assert stats.ndcg(score, grade) == pytest.approx(ndcg_score([2.0**grade - 1], [score], k=10))
    assert math.isnan(stats.average_precision(score, np.zeros(57)))


def test_calibration_error_of_overconfidence() -> None:
    assert stats.calibration_error([0.9, 0.9, 0.9, 0.9], [1, 1, 0, 0]) == pytest.approx(0.4)
    assert stats.calibration_error([1.0, 1.0, 0.2], [1, 1, 0]) == pytest.approx(0.2 / 3)


def test_curves_are_compared_with_random_seed_by_seed(found: dict[str, Any]) -> None:
    assert found["labels"] == [20, 30, 40]
    assert found["minutes"] == pytest.approx(18 * 3 / 60)
    assert found["seconds_per_round"] == {"BALD": 3.0, "random": 3.0}
    assert curves.over_random(found, "accuracy")["BALD"] == pytest.approx([0.1, 0.15, 0.0])
    assert curves.over_random(found, "nll", better=-1)["BALD"] == pytest.approx([0.1, 0.15, 0.0])


def test_a_table_has_means_errors_and_p(found: dict[str, Any]) -> None:
    head, _, bald, random = curves.table(found, "accuracy", [20, 40])
    assert head == "| method | seeds | at 20 | at 40 | better than random by | p |"
    assert bald == "| BALD | 3 | 0.467 ± 0.033 | 0.867 ± 0.033 | +0.083 | 0.25 |"
    assert random == "| random | 3 | 0.467 ± 0.033 | 0.733 ± 0.033 |  |  |"


def test_a_curve_that_ends_early_is_compared_over_its_own_rounds() -> None:
    found = curves.of_cycles({"BALD": [rounds([0.5, 0.7])] * 3, "random": [rounds([0.5, 0.6, 0.1])] * 3})
    assert found["labels"] == [20, 30, 40]
    assert curves.over_random(found, "accuracy")["BALD"] == pytest.approx([0.05] * 3)
    _, _, bald, random = curves.table(found, "accuracy", [30, 40], 2)
    assert bald == "| BALD | 3 | 0.70 ± 0.00 |  | +0.05 | 0.12 |"
    assert random == "| random | 3 | 0.60 ± 0.00 | 0.10 ± 0.00 |  |  |"
    axes = curves.figure().subplots()
    curves.plot(axes, found, "accuracy", "accuracy")
    assert {len(line.get_xdata()) for line in axes.lines} == {2, 3}


def test_a_plot_shows_every_seed_and_the_names(found: dict[str, Any]) -> None:
    axes = curves.figure().subplots()
    curves.plot(axes, found, "accuracy", "accuracy")
    assert len(axes.lines) == 2 * (3 + 1)
    assert {each.get_text() for each in axes.texts} == {"BALD", "random"}


def test_names_stand_apart_and_below_the_top() -> None:
    assert curves._apart([1.0, 1.5, 8.0], 1.0, 9.0) == [1.0, 2.0, 8.0]
    assert curves._apart([7.8, 7.9, 8.0], 1.0, 9.0) == [7.0, 8.0, 9.0]


def test_what_is_kept_is_not_computed_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return {"value": 0.1}

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "new" / "part.json", compute)
    assert (
        kept(tmp_path / "new" / "part.json", compute) == kept(tmp_path / "new" / "part.json", compute) == {"value": 0.1}
    )
    assert len(calls) == 2


def test_a_claim_says_by_how_much_and_how_often_it_fails() -> None:
    claim = experiment.above_zero("BALD is above random", [0.1, 0.2, 0.1, 0.3, 0.1])
    assert str(claim) == "holds: BALD is above random, by 0.160 (p = 0.031) (error rate: 2.4%)"
    assert str(experiment.above_zero("it is", [-0.1, 0.0])).startswith("does not hold: it is, by -0.050")
    assert str(experiment.above_zero("it is", [-0.1, 0.2])).startswith("undecided: it is, by 0.050")


def test_a_row_has_a_ratio_only_with_both_figures() -> None:
    assert experiment.Row("labels", 335, 300).cells() == ["labels", "335", "300", "0.90"]
    assert experiment.Row("labels", None, 300).cells() == ["labels", "", "300", ""]
    assert experiment.Row("rmse", 0.0, 0.001, 3).cells() == ["rmse", "0.000", "0.001", ""]


def test_missing_data_are_named_with_where_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCSCORE_DATA", str(tmp_path))
    with pytest.raises(NoDataError, match=r"mnist is not there.*README\.md says where.*--data or MCSCORE_DATA"):
        folder(None, "mnist")
    (tmp_path / "mnist").mkdir()
    assert folder(None, "mnist") == folder(tmp_path, "mnist") == tmp_path / "mnist"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_has_all_that_is_asked_of_it(name: str) -> None:
    module = importlib.import_module(f"benchmarks.evidence.{name}")
    page = importlib.import_module(f"benchmarks.evidence.pages.{name}")
    assert [each for each in experiment.INTERFACE if not hasattr(module, each)] == []
    assert [each for each in experiment.PAGE if not hasattr(page, each)] == []
    assert module.QUESTION.endswith("?")
    assert len(module.QUICK_SEEDS) >= 5  # fewer show nothing at 0.05
    readme = (ROOT / "benchmarks" / "evidence" / "README.md").read_text()
    assert f"\n| {name} | {module.DATA} |" in readme
    assert f"\n| `{module.DATA}` |" in readme


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_without_data_says_so(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"benchmarks.evidence.{name}")
    setting = experiment.Setting(tmp_path, tmp_path / "work", True, (1,), lambda stage: None)
    if name == "map":  # whose moons need none
        with pytest.raises(NoDataError):
            module.points("digits", setting, 1)
    else:
        with pytest.raises(NoDataError):
            module.run(setting)


def test_the_index_has_rows_costs_failures_and_what_is_missing(tmp_path: Path) -> None:
    made = {"date": "2026-11-26", "machine": "a CPU, 1 thread", "command": "python -m it --seeds 0", "versions": "it 1"}
    one = {"rmse": [5.0, 5.2], "rmse_one": [6.0, 6.2], "rmse_off": [5.1, 5.3], "log_likelihood": [-3.0, -3.1]}
    claims = [
        {"text": "concrete: better", "verdict": "does not hold", "chance": "61%"},
        {"text": "yacht: better", "verdict": "undecided", "chance": "12%"},
        {"text": "energy: better", "verdict": "holds", "chance": "1%"},
    ]
    results = {
        "experiment": "regression",
        "size": "quick",
        "sets": {"concrete": one},
        "epochs": [400],
        "minutes": 12.3,
        "made": made,
    }
    write(tmp_path / "regression.json", {**results, "claims": claims})
    text = written.write_index(tmp_path).read_text()
    assert "| [regression](regression.md) | concrete, RMSE | 4.820 | 5.100 | 1.06 |" in text
    assert "`python -m it --seeds 0` (quick size): 12 minutes, a CPU, 1 thread, 2026-11-26." in text
    assert "- regression: concrete: better: does not hold (error rate: 61%)" in text
    assert "- regression: yacht: better: undecided (error rate: 12%)" in text
    assert "energy: better" not in text
    assert f"Not run: {', '.join(name for name in EXPERIMENTS if name != 'regression')}." in text
    page = (tmp_path / "regression.md").read_text()
    assert "- energy: better: **holds** (error rate: 1%)" in page
    assert "Made 2026-11-26 by `python -m it --seeds 0` on a CPU, 1 thread; it 1." in page


def test_log_likelihood_of_passes_that_agree_is_that_of_a_normal_distribution() -> None:
    from scipy.stats import norm

    regression = importlib.import_module("benchmarks.evidence.regression")
    y, outputs = np.array([0.3, -1.2, 4.0]), np.zeros((7, 3))
    assert regression.log_likelihood(outputs, y, 4.0) == pytest.approx(norm.logpdf(y, scale=0.5).mean())


def test_a_thompson_sample_of_a_decision_does_not_depend_on_the_others() -> None:
    bandit = importlib.import_module("benchmarks.evidence.bandit")
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 30), torch.nn.Dropout(0.5), torch.nn.Linear(30, 10)).eval()
    contexts = torch.randn(1, 5).expand(12, 5)
    ids = np.arange(100, 112)
    all_at_once = bandit.thompson(model, contexts, ids, np.random.default_rng(3))
    alone = [bandit.thompson(model, contexts[:1], ids[n : n + 1], np.random.default_rng(3))[0] for n in range(12)]
    assert all_at_once.tolist() == alone
    assert len(set(alone)) > 1  # another mask, another sample of the weights


def test_the_command_writes_results_page_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bandit, command = (importlib.import_module(f"benchmarks.evidence.{name}") for name in ("bandit", "__main__"))
    monkeypatch.setattr(bandit, "mnist", lambda given: None)  # all decisions are there already
    monkeypatch.setattr(command, "threadpool_limits", lambda threads: None)  # other tests share the process
    for policy in bandit.POLICIES:
        for seed in (0, 1):
            regret = [90 + n * (10 if policy == "uniform" else 0) + seed for n in range(8)]
            (tmp_path / "work").mkdir(exist_ok=True)
            write(tmp_path / "work" / f"{policy}-{seed}.json", {"regret": regret, "seconds": 1.0})
    folders = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert command.main(["bandit", "--quick", "--seeds", "0", "1", *folders]) == 0
    told = "holds: Thompson's regret is below that of uniform, by 70 (p = 0.25) (error rate: 0.0%)\n"
    assert capsys.readouterr().out == told
    results = json.loads((tmp_path / "out" / "bandit.json").read_text())
    assert (results["seeds"], results["size"]) == ([0, 1], "quick")
    assert "![bandit](bandit.png)" in (tmp_path / "out" / "bandit.md").read_text()
    assert (tmp_path / "out" / "bandit.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "seed"), [("relevance", 0), ("regression", 20), ("regression_active", 20)])
def test_a_split_that_is_not_there_is_refused(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = importlib.import_module("benchmarks.evidence.__main__")
    monkeypatch.setattr(command, "threadpool_limits", lambda threads: None)  # other tests share the process
    with pytest.raises(SystemExit) as ended:
        command.main([name, "--quick", "--seeds", "1", str(seed)])
    assert ended.value.code == 2
    assert f"{name} has no split {seed}; --seeds can be: " in capsys.readouterr().err


def test_tenths_by_uncertainty_hold_the_errors_of_the_least_certain() -> None:
    images = importlib.import_module("benchmarks.evidence.images")
    import torch

    class Sure(torch.nn.Module):
        """Says class 0, the surer the greater its only input; its dropout changes next to nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            little = self.drop(torch.full((len(x), 4), 1e-5)).sum(1)
            return torch.stack([x + little, torch.zeros_like(x)], 1)

    sure = torch.linspace(0.05, 3, 100)
    labels = (np.arange(100) < 20).astype(np.int32)  # wrong about the twenty least sure
    told = images.measures(Sure().eval(), sure, labels, 3)
    for by in ("entropy", "entropy, dropout off"):
        assert [told[f"{by}, tenth {n}"] for n in range(1, 11)] == [0.0] * 8 + [1.0, 1.0]
    assert told["accuracy"] == told["accuracy, dropout off"] == 0.8
    confidence = torch.sigmoid(sure).numpy()
    assert told["ECE"] == pytest.approx(stats.calibration_error(confidence, labels == 0), abs=1e-4)
    assert told["negative log likelihood"] == pytest.approx(
        -np.log(np.where(labels == 0, confidence, 1 - confidence)).mean(), abs=1e-4
    )


def test_a_pool_of_repeats_has_each_digit_as_often_and_noise_of_its_own() -> None:
    repeats = importlib.import_module("benchmarks.evidence.repeats")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 1, 4, 4), np.uint8)
    data = Images(pixels, np.arange(60, dtype=np.int32), pixels, np.arange(60, dtype=np.int32))
    four, labels = repeats.items(data, 40, 4, seed=1)
    one, few = repeats.items(data, 40, 1, seed=1)
    assert four.dtype == np.float32
    assert labels.tolist() == few.tolist() * 4
    assert sorted(set(few.tolist())) == sorted(few.tolist())  # no digit is drawn twice
    assert np.array_equal(four[:40], one)
    apart = four.reshape(4, 40, -1) - four.reshape(4, 40, -1).mean(0)
    assert apart.std() * (4 / 3) ** 0.5 == pytest.approx(0.1, rel=0.05)
    assert not np.array_equal(repeats.items(data, 40, 1, seed=2)[1], few)


def test_copies_of_a_batch_and_of_labeled_items_are_told_apart() -> None:
    repeats = importlib.import_module("benchmarks.evidence.repeats")

    def turn(chosen: list[int]) -> Round:
        ids = np.array(chosen, np.int64)
        return Round(0, 20, 0.5, ids, ids, 1.0, None, {"accuracy": 0.5}, None, "")

    turns = [
        turn([5, 105, 7, 101]),
        turn([205, 8, 9, 10]),
        turn([]),
    ]  # of 100 digits, of which digit 1 is labeled at first
    assert repeats.copied(turns, np.array([1, 2]), 100) == (2 / 8, 2 / 8)


def test_claims_of_repeats_are_of_the_published_order_only_in_a_full_run() -> None:
    repeats = importlib.import_module("benchmarks.evidence.repeats")
    level = {"BALD": 0.92, repeats.SHARED: 0.86, "radius": 0.93, "random": 0.9}
    accuracy = {
        m: [rounds([0.5] + [level.get(m, 0.95) + 0.01 * seed] * 5) for seed in range(3)] for m in repeats.METHODS
    }
    found = curves.of_cycles(accuracy)
    found["copied"] = {m: [[{repeats.SHARED: 0.9, "BALD": 0.5}.get(m, 0.0), 0.1]] * 3 for m in repeats.METHODS}
    results = {"pools": {"4": found}, "of": repeats.SMALL, "minutes": 1.0}
    assert [claim.verdict for claim in repeats.claims(results)] == ["holds"] * 2
    full = repeats.claims({**results, "of": repeats.FULL})
    assert len(full) == 9
    assert {claim.verdict for claim in full} == {"holds"}
    assert (
        full[2].text
        == "x4: accuracy from 260 labels to 300 of top-k BALD with shared masks is below random's, by 0.040 (p = 0.12)"
    )
    told = importlib.import_module("benchmarks.evidence.pages.repeats").page({**results, "of": repeats.FULL})
    assert "| BALD, shared masks | 3 |" in told
    assert "| -0.040 | 1 | 0.12 | 90.0% | 10.0% |" in told
