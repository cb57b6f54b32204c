"""Labels of every form that Label Studio exports come to their items. The files are as its release 1.23.2 writes them, cut short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mcscore import Pool, Run
from mcscore.cli import main
from mcscore.errors import PoolError, RunError
from mcscore.label_studio import read_export, take_in
from mcscore.run.export.label_studio import pool_mark

from .conftest import CLASSES, KEYS, make_run

# Task 1 has one choice, task 2 two, task 3 was skipped, task 4 was submitted without a choice, 5 has a class that looks like JSON,
# 6 is of someone else. What Label Studio adds besides is cut from the end of each.
ITEMS = {1: 7, 2: 8, 3: 9, 4: 10, 5: 30}
CHOSEN: dict[int, list[str] | None] = {1: [CLASSES[1]], 2: ["cat", "7"], 3: None, 4: [], 5: ["[a]"]}
ADDED = {"annotator": 1, "created_at": "2026-11-26T21:08:36.973958Z", "lead_time": None}


def data_of(task: int, pool: str) -> dict[str, Any]:
    item = ITEMS[task]
    return {"image": "/data/upload/1/x.png", "item": item, "key": KEYS[item], "prediction": "cat", "pool": pool}


def as_json(pool: str, chosen: dict[int, list[str] | None]) -> str:
    tasks = [
        {
            "id": task,
            "annotations": [
                {
                    "id": task + 100,
                    "completed_by": 1,
                    "result": [
                        {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": said}}
                    ]
                    if said
                    else [],
                    "was_cancelled": said is None,
                    "prediction": {"result": [{"from_name": "label", "value": {"choices": ["cat"]}}]},
                }
            ],
            "drafts": [],
            "predictions": [task],
            "data": data_of(task, pool),
        }
        for task, said in chosen.items()
    ]
    return json.dumps([*tasks, {"id": 6, "annotations": [], "data": {"image": "a.png"}}])


def as_json_min(pool: str, chosen: dict[int, list[str] | None]) -> str:
    rows = []
    for task, said in chosen.items():
        if said is not None:
            label = {"label": said[0] if len(said) == 1 else {"choices": said}} if said else {}
            rows.append(data_of(task, pool) | {"id": task} | label | {"annotation_id": task + 100} | ADDED)
    return json.dumps(rows, indent=2)


def as_table(pool: str, chosen: dict[int, list[str] | None], between: str) -> str:
    """Every text in quotes, numbers without; columns by name."""
    names = ["annotation_id", "annotator", "id", "image", "item", "key", "label", "lead_time", "pool", "prediction"]
    lines = [between.join(f'"{name}"' for name in names)]
    for task, said in chosen.items():
        if said is not None:
            label = said[0] if len(said) == 1 else json.dumps({"choices": said}, ensure_ascii=False) if said else ""
            row = data_of(task, pool) | {"id": task, "label": label, "annotation_id": task + 100, "annotator": "1"}
            cells = ['"{}"'.format(str(row.get(name, "")).replace('"', '""')) for name in names]
            numbers = {"annotation_id", "id", "item"}
            lines.append(
                between.join(c.strip('"') if name in numbers else c for name, c in zip(names, cells, strict=True))
            )
    return "\r\n".join([*lines, ""])


FORMS = {
    "JSON": as_json,
    "JSON_MIN": as_json_min,
    "CSV": lambda pool, chosen: as_table(pool, chosen, ","),
    "TSV": lambda pool, chosen: as_table(pool, chosen, "\t"),
}
EACH = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("scored"))


@pytest.fixture
def run(scored: Run) -> Run:
    """The same run for all, with an unlabeled pool."""
    pool = pool_of(scored)
    pool.set_labels(range(pool.n), [-1] * pool.n)
    return scored


def pool_of(run: Run) -> Pool:
    return Pool.open(run.path.parent / "pool")


def mark(run: Run) -> str:
    return pool_mark(run.meta["pool"]["fingerprint"])


def given(run: Run, form: str, folder: Path, pool: str | None = None, **changed: Any) -> Path:
    """An exported file; changed: what was chosen for t1, t2, ... where it is not as in CHOSEN."""
    chosen = CHOSEN | {int(name[1:]): value for name, value in changed.items()}
    file = folder / "exported"
    file.write_text(FORMS[form](pool or mark(run), chosen), encoding="utf-8", newline="")
    return file


def labels_of(run: Run) -> dict[int, int]:
    labels = pool_of(run).labels.tolist()
    return {id: label for id, label in enumerate(labels) if label >= 0}


@EACH
def test_one_label_of_each_item_goes_into_the_pool(run: Run, form: str, tmp_path: Path) -> None:
    file = given(run, form, tmp_path, t2=["7"])
    export = read_export(file)
    done = take_in(run, export, several=False)
    assert labels_of(run) == {7: 1, 8: 2, 30: 4}
    assert (done.changed, done.labeled, done.unlabeled, done.foreign, done.table) == (3, 3, 1, 0, None)
    assert done.skipped == (1 if form == "JSON" else 0)
    assert take_in(run, export, several=False).changed == 0


@EACH
def test_several_labels_are_logged_in_the_run(form: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, likelihood="bernoulli", k=3)
    result = CliRunner().invoke(
        main, ["label-studio", "pull", str(run.path), "--file", str(given(run, form, tmp_path))]
    )
    assert result.exit_code == 0, result.output
    assert "4 items changed" in result.stdout
    table = (run.path / "labels" / "labels.csv").read_text().splitlines()
    rows = {int(line.split(",")[0]): line[-9:] for line in table[1:]}
    assert rows == {7: "0,1,0,0,0", 8: "1,0,1,0,0", 10: "0,0,0,0,0", 30: "0,0,0,0,1"}
    assert set(labels_of(run)) == set()
    with pytest.raises(RunError, match=r"1 conflict, nothing was changed: item 8 has \[0, 2\] and would get \[1\]"):
        take_in(run, read_export(given(run, form, tmp_path, t2=[CLASSES[1]])), several=True)
    done = take_in(run, read_export(given(run, form, tmp_path, t2=[CLASSES[1]])), several=True, overwrite=True)
    assert done.changed == 1


@EACH
def test_conflicts_are_named_and_nothing_is_changed(run: Run, form: str, tmp_path: Path) -> None:
    pool_of(run).set_labels([30], [0])
    with pytest.raises(PoolError, match=r"1 conflict, nothing was changed: item 30 is labeled 0 and would become 4"):
        take_in(run, read_export(given(run, form, tmp_path, t2=[])), several=False)
    assert labels_of(run) == {30: 0}
    take_in(run, read_export(given(run, form, tmp_path, t2=[])), several=False, overwrite=True)
    assert labels_of(run) == {7: 1, 30: 4}
    with pytest.raises(RunError, match=r"task 2: cat, 7 are several labels of one item.*--multi-label"):
        take_in(run, read_export(given(run, form, tmp_path)), several=False)
    with pytest.raises(PoolError, match=r"task 2, field label: 'ostrich' is neither a class"):
        take_in(run, read_export(given(run, form, tmp_path, t2=["ostrich"])), several=False)


def test_a_task_that_is_labeled_twice_is_a_conflict_unless_the_same(run: Run, tmp_path: Path) -> None:
    file = given(run, "JSON", tmp_path, t2=["7"])
    tasks = json.loads(file.read_text())
    tasks.append(tasks[1] | {"id": 17})
    file.write_text(json.dumps(tasks))
    assert take_in(run, read_export(file), several=False).labeled == 4
    tasks[-1] = json.loads(json.dumps(tasks[-1]).replace('"choices": ["7"]', '"choices": ["cat"]'))
    file.write_text(json.dumps(tasks))
    with pytest.raises(PoolError, match=r"item 8 is given both (0 and 2|2 and 0)"):
        take_in(run, read_export(file), several=False)


@EACH
def test_tasks_of_another_pool_are_left_out(run: Run, form: str, tmp_path: Path) -> None:
    file = given(run, form, tmp_path, pool="0123456789abcdef")
    with pytest.raises(
        RunError, match=r"has [45] annotations, and none is of an item of .*pool: take the run of its pool"
    ):
        take_in(run, read_export(file), several=False)
    text = given(run, form, tmp_path, t2=["7"]).read_text()
    at = text.index(mark(run))
    file.write_text(text[:at] + "0123456789abcdef" + text[at + 16 :])  # of the first task
    assert take_in(run, read_export(file), several=False).foreign == 1
    assert labels_of(run) == {8: 2, 30: 4}


def test_an_item_whose_key_is_another_is_a_conflict(run: Run, tmp_path: Path) -> None:
    file = given(run, "JSON", tmp_path, t2=["7"])
    file.write_text(file.read_text().replace('"item": 8', '"item": 11'))
    with pytest.raises(PoolError, match=r"task 2, field key: item 11 has the key 'in/11, .*', not 'in/8, "):
        take_in(run, read_export(file), several=False)
    assert labels_of(run) == {}


def test_labels_survive_what_is_appended_to_the_pool(tmp_path: Path) -> None:
    from mcscore.ingest import append_blocks

    run = make_run(tmp_path)
    append_blocks(pool_of(run).path, [pool_of(run).take([0, 1])], keys=["x", "y"])
    take_in(run, read_export(given(run, "CSV", tmp_path, t2=["7"])), several=False)
    assert labels_of(run) == {7: 1, 8: 2, 30: 4}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"a": 1}]', "neither annotations nor a field 'annotation_id'"),
        ("[1]", "a list of tasks is needed"),
        ("[{", "is no JSON"),
        ("id,label\n1,cat\n", "neither annotations nor a field 'annotation_id'"),
        ('"annotation_id","id","mood"\r\n1,1,"a"\r\n', "has no field 'label'.* it has annotation_id, id, mood"),
        (b"\xff\xfe", "is no UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_export_is_refused(content: str | bytes | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "exported"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError, match=said):
        read_export(file)
