"""What `mcscore label` says when it cannot serve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mcscore.cli import main
from mcscore.label_app.server import NEEDED
from mcscore.run import Run

from .conftest import make_run


def said(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["label", *map(str, words)], prog_name="mcscore")
    assert result.stdout == ""
    return result.exit_code, result.stderr


def test_a_run_at_a_url_is_refused() -> None:
    code, text = said("s3://bucket/run")
    assert code == 2
    assert "s3://bucket/run is a URL; a path on this machine is needed here" in text


def test_without_a_selection_the_verb_that_makes_one_is_named(run: Run) -> None:
    (run.path / "selection-0001.parquet").unlink()
    assert said(run.path) == (
        1,
        f"mcscore: there is no selection in {run.path}; `mcscore select` makes one\n",
    )


def test_packages_that_are_missing_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert set(NEEDED) == {"bottle", "waitress", "PIL"}
    assert said(run.path) == (
        1,
        "mcscore: the labeling page needs bottle, waitress, pillow: pip install 'mcscore[label]'\n",
    )


def test_a_damaged_log_is_told_and_kept(run: Run) -> None:
    log = run.path / "labels" / "log.jsonl"
    log.parent.mkdir()
    log.write_text("{\n")
    code, text = said(run.path)
    assert code == 1
    assert f"{log} is damaged" in text
    assert "Move it away to go on without it" in text
    assert log.read_text() == "{\n"


def test_texts_of_a_table_are_shown(tmp_path: Path, images: np.ndarray) -> None:
    from mcscore.label_app.session import Session
    from mcscore.pool import Pool
    from mcscore.run.selecting.item_columns import texts_from

    run = make_run(tmp_path, images.reshape(23, 351)[:, :5].astype(np.float32) / 255, k=3)
    table = tmp_path / "items.csv"
    table.write_text("key,sentence\n" + "".join(f'in/{i:03}.png,"Satz {i}, <b>"\n' for i in range(0, 23, 2)))
    pool = Pool.open(run.meta["pool"]["path"])
    session = Session(run, pool, texts=texts_from(pool, f"{table}:sentence"))
    assert session.facts()["kind"] == "text"
    assert session.content.facts(4) == {"kind": "text", "text": "Satz 4, <b>"}
    assert session.content.facts(5) == {"kind": "text", "text": ""}
