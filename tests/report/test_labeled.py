"""What the page says of how right the model is are the counts of the labeled items, and it says what they do not stand for."""

from __future__ import annotations

import numpy as np
import pytest

from mcscore.report import labeled, write_report

from .conftest import FakePool, FakeRun, Make
from .test_page import Page

N = 500


@pytest.fixture
def run(make_run: Make) -> FakeRun:
    rng = np.random.default_rng(0)
    bald = rng.permutation(np.linspace(0, 1, N))
    bald[7] = np.nan
    return make_run(rng.integers(0, 3, N).astype(np.int32), bald=bald, least_confidence=rng.uniform(0, 0.6, N))


@pytest.fixture
def pool() -> FakePool:
    labels = np.full(N, -1, np.int32)
    labels[:211] = np.random.default_rng(1).integers(0, 3, 211)
    return FakePool(np.zeros((N, 2), np.float32), labels, classes=["cat", "dog", "<eel>"])


def page(run: FakeRun, pool: FakePool) -> Page:
    return Page(write_report(run, pool))  # type: ignore[arg-type]


def shown(run: FakeRun, pool: FakePool) -> labeled.Known:
    """The labeled items, as the section reads them."""
    from mcscore.report.shown import Shown

    return labeled.known_items(Shown(run, pool, None, {"bald": None}, {}, pool.labels, pool.classes))  # type: ignore[arg-type]


def test_labeled_items_are_those_with_a_label_and_a_score(run: FakeRun, pool: FakePool) -> None:
    known, ids = shown(run, pool), np.setdiff1d(np.arange(211), [7])
    np.testing.assert_array_equal(known.ids, ids)
    np.testing.assert_array_equal(known.right, run.values_of["prediction"][ids] == pool.labels[ids])
    np.testing.assert_allclose(known.confidence, 1 - run.values_of["least_confidence"][ids], atol=1e-6)


def test_confusion_and_deciles_count_the_items(run: FakeRun, pool: FakePool) -> None:
    known = shown(run, pool)
    table = labeled.confusion(known, str)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (known.labels, known.predictions), 1)
    assert [row[:3] for row in table.rows] == expected.tolist()
    assert (table.totals, table.others) == (expected.sum(axis=1).tolist(), False)
    deciles = labeled.by_uncertainty(known, "BALD")
    assert [group.items for group in deciles] == [21] * 10
    order = np.argsort(known.scores)
    assert deciles[9].share == pytest.approx(known.right[order[189:]].mean())
    assert all(group.low < group.share < group.high for group in deciles if 0 < group.share < 1)


def test_of_many_classes_those_with_most_mistakes_are_shown() -> None:
    labels = np.repeat(np.arange(40), 5)
    predictions = labels.copy()
    predictions[labels >= 30] = 39 - (predictions[labels >= 30] - 30)  # the last ten are taken for each other
    known = labeled.Known(np.arange(200), np.zeros(200), predictions, labels, None)
    table = labeled.confusion(known, str)
    assert len(table.classes) == labeled.MAX_CLASSES
    assert table.classes[-10:] == [str(i) for i in range(30, 40)]
    assert table.totals == [5] * 12


def test_calibration_error_is_the_mean_gap_between_probability_and_accuracy() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1.0, 20_000)
    right = rng.random(20_000) < confidence
    assert labeled.calibration(confidence, right)["error"] < 0.015
    assert labeled.calibration(confidence, rng.random(20_000) < confidence - 0.2)["error"] == pytest.approx(
        0.2, abs=0.02
    )
    assert labeled.calibration(np.ones(3), np.ones(3, bool))["error"] == 0


def test_the_page_tells_the_bias_of_the_labeled_items(run: FakeRun, pool: FakePool) -> None:
    run.select([3, 400], "bald")
    said = page(run, pool)
    assert "The model is right about" in said.text
    assert "of the 210 scored items with a label by now" in said.text
    assert "1 of them is of this selection: chosen because it is hard, not drawn at random." in said.text
    assert "the expected calibration error is" in said.text
    assert "&lt;eel&gt;" in said.source
    run.meta["labeled"] = True
    assert "Those that the model was trained on are among them, if any" in page(run, pool).text


def test_without_labels_or_probabilities_the_page_says_so_or_nothing(
    run: FakeRun, pool: FakePool, make_run: Make
) -> None:
    run.select([3], "bald")
    pool.labels[19:] = -1
    assert "By uncertainty" not in page(run, pool).text  # too few
    assert "By class" in page(run, pool).text
    del run.values_of["least_confidence"]
    run.meta["scores"] = ["bald"]
    assert "the run has not kept them" in page(run, pool).text
    pool.labels[:] = -1
    assert "where labels are known" not in page(run, pool).text
    other = make_run(np.zeros(N, np.int32), likelihood="bernoulli", bald=np.linspace(0, 1, N))
    pool.labels[:50] = 1
    assert "where labels are known" not in page(other, pool).text


def test_originals_are_linked_where_they_are(run: FakeRun, pool: FakePool) -> None:
    run.select([3, 4, 5], "bald")
    pool.keys = np.array([f"a {i}#.png" for i in range(N)])
    pool.source = str(run.path)
    (run.path / "a 4#.png").write_bytes(b"")
    assert [item["original"] for item in page(run, pool).data["items"]] == [
        None,
        (run.path / "a 4#.png").as_uri(),
        None,
    ]
    pool.source = "https://example.com/in/"
    said = page(run, pool)
    assert said.data["items"][2]["original"] == "https://example.com/in/a%205%23.png"
    assert [attrs["href"] for tag, attrs in said.tags if tag == "a"][2] == "https://example.com/in/a%205%23.png"


def test_probabilities_that_the_run_has_kept_are_shown(run: FakeRun, pool: FakePool) -> None:
    from mcscore.run.selecting.samples_file import write_samples

    run.select([3, 4], "bald")
    assert "Second classes are not kept in this run" in page(run, pool).text
    p_nTC = np.random.default_rng(0).dirichlet(np.ones(3), (1, 6)).astype(np.float32)
    write_samples(
        run.path / "samples-candidates.bin", {"model": run.meta["model"]["fingerprint"]}, np.array([4]), p_nTC
    )
    said, mean = page(run, pool), p_nTC[0].mean(axis=0)
    assert said.data["items"][0]["guesses"] is None
    assert said.data["items"][0]["chance"] == pytest.approx(1 - run.values_of["least_confidence"][3], abs=1e-5)
    assert [number for number, _ in said.data["items"][1]["guesses"]] == np.argsort(-mean).tolist()
    assert said.data["items"][1]["chance"] == pytest.approx(mean[said.data["items"][1]["prediction"]], abs=1e-4)
