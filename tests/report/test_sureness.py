"""What the page says of how sure a selection is holds between two seeds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mcscore import Pool, Run, Scorer, score_pool
from mcscore.report import write_report
from mcscore.report.sureness import verdict
from mcscore.selection.screening.overlap import Overlap, expected_overlap
from mcscore.selection.screening.population import measure

from .conftest import FakeRun, Make
from .test_page import Page

N = 700
HINT = "no standard errors: mcscore score --errors"


@pytest.fixture
def run(make_run: Make) -> FakeRun:
    """Of items 0, 1, 2, ... from the best down; scores are 0.001 apart, standard errors 0.005."""
    bald = 1 - np.arange(N) / 1000
    return make_run(np.zeros(N, np.int32), bald=bald, bald_se=np.full(N, 0.005), bald_bias=np.full(N, -0.01))


def page(run: FakeRun) -> Page:
    return Page(write_report(run))  # type: ignore[arg-type]


def test_the_page_says_what_other_masks_would_change(run: FakeRun) -> None:
    run.select(list(range(50)), "bald", near_cut=5, method="none")
    said = page(run)
    overlap, more, found = re.findall(
        r"about (\d+)% of the 50 .* About ([\d,]+) passes .* about (\d+)% are", said.text
    )[0]
    # Where scores are d apart, an item t below the cut has P = Φ(-t/se) of being selected: 2 P (1 - P) summed is 2 se / (√π d).
    assert int(overlap) == pytest.approx(100 * (1 - 0.005 / 0.001 / np.sqrt(np.pi) / 50), abs=1)
    assert int(found) == pytest.approx(100 * (1 - 0.005 / 0.001 / np.sqrt(2 * np.pi) / 50), abs=1)
    assert int(more.replace(",", "")) == pytest.approx(50 * ((1 - int(overlap) / 100) / 0.05) ** 2, rel=0.3)
    assert (
        "5 items that were not selected lie within one standard error of the lowest selected score, 0.951 ± 0.005."
        in said.text
    )
    assert "diversity may change more" not in said.text
    (alt,) = [alt for alt in said.plots if "of rank" in alt]
    assert alt.startswith(
        "BALD of the items of rank 11 to 90 with their standard errors, 40 items of them selected; the lowest"
    )
    assert said.source.count('title="standard error of BALD 0.005"') == 100  # of the selected and of the random items


def test_the_page_says_what_it_does_not_count(run: FakeRun) -> None:
    run.select(
        [0, 20, 44, 60], "bald"
    )  # by radius; a file of before errors were stored does not say what is near the cut
    said = page(run)
    assert "The selection also looks at diversity, which may change more" in said.text
    assert "within one standard error of the lowest" not in said.text
    (alt,) = [alt for alt in said.plots if "of rank" in alt]
    assert "of rank 22 to 101" in alt
    assert "2 items of them selected" in alt


def test_without_errors_or_without_a_choice_there_is_no_verdict(make_run: Make) -> None:
    run = make_run(np.zeros(N, np.int32), bald=np.linspace(0, 1, N), entropy=np.full(N, 0.5))
    assert HINT not in page(run).text  # nothing is selected
    run.select([3, 4], "bald")
    assert HINT in page(run).text
    assert "±" not in page(run).text
    (run.path / "selection-a.parquet").unlink()
    run.select([3, 4], "entropy")
    assert HINT not in page(run).text  # all scores are equal


@pytest.mark.parametrize(
    ("method", "how"),
    [
        ("power", "power draws at random, and another seed draws other items"),
        ("k-center", "k-center does not choose by score alone"),
    ],
)
def test_a_choice_without_a_cut_has_no_verdict(run: FakeRun, method: str, how: str) -> None:
    run.select([3, 40, 7], "bald", method=method)
    said = page(run)
    assert f"This is not known: {how}, so no lowest selected score divides the items." in said.text
    assert "within one standard error of the lowest" not in said.text
    assert not [alt for alt in said.plots if "of rank" in alt]


def test_verdicts_that_are_not_a_number_of_passes() -> None:
    settled = verdict(Overlap(1, 400, 0.96, 0.97, 0.95, 380), "margin")
    assert settled[:2] == [
        "With other dropout masks (another seed), about 96% of the 1 item with the highest margin would be the same.",
        "More passes would change little.",
    ]
    never = verdict(Overlap(2000, 20, 0.1, 0.3, 0.95, None), "margin")
    assert never[1] == "Even 65,536 passes would not make it 95%: too many items are equal, or nearly so."
    assert "2,000 items" in never[2]


def shared(first: Run, second: Run, k: int) -> float:
    """The share of the best k by BALD that two runs have in common."""
    best = [set(np.argsort(-run.scores("bald"), kind="stable")[:k].tolist()) for run in (first, second)]
    return len(best[0] & best[1]) / k


def test_the_verdict_holds_between_two_seeds(tmp_path: Path) -> None:
    """Real digits, a real network: what is said of T = 20 and 100, and the number of passes that is said to be enough."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(64, 10)
    )
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    x, y = torch.from_numpy(images[:60]), torch.from_numpy(digits.target[:60])
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    pool = Pool.create(tmp_path / "pool", images[60:])

    def scored(passes: int, seed: int) -> Run:
        scorer = Scorer(net.eval(), passes=passes, scores=("bald",), seed=seed, errors=True)
        return score_pool(pool, scorer, tmp_path / f"run-{passes}-{seed}")

    def said(run: Run, k: int) -> Overlap:
        columns = run.scores("bald"), run.scores("bald_se"), run.scores("bald_bias")
        return expected_overlap(measure(lambda: [columns], k), run.meta["passes"])

    for passes in (20, 100):
        first, second = scored(passes, 1), scored(passes, 2)
        for k in (100, 300):
            assert said(first, k).overlap == pytest.approx(shared(first, second, k), abs=0.12), (passes, k)
    enough = said(first, 300).enough
    assert enough is not None
    assert shared(scored(enough, 1), scored(enough, 2), 300) == pytest.approx(0.95, abs=0.02)
