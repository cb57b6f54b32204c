"""A selection goes to a real Label Studio server, is labeled there, and every label comes back to its item, in every form."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mcscore import Pool, Run
from mcscore.cli import main
from mcscore.pool import label_from

from .conftest import CLASSES, KEYS, RealServer, make_run

pytestmark = pytest.mark.timeout(1200)  # its first start makes a database
FORMS = {"JSON": "json", "JSON_MIN": "json", "CSV": "csv", "TSV": "tsv"}


def mcscore(*words: object) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*map(str, words), "--json"])
    return json.loads(result.stdout) | {"exit_code": result.exit_code}


def place(server: RealServer, token: str | None = None) -> list[str]:
    return ["--url", server.url, "--token", token or server.token]


def tasks_of(server: RealServer, project: int) -> list[dict[str, Any]]:
    answer = server.client.get("/api/tasks", params={"project": project, "page_size": 1000, "fields": "all"}).json()
    return answer["tasks"]


def annotate(server: RealServer, task: dict[str, Any], chosen: list[str] | None, shown: str = "image") -> None:
    """Label a task as a person does; None: skip it."""
    region = {"from_name": "label", "to_name": shown, "type": "choices", "value": {"choices": chosen}}
    said = {"result": [region] if chosen else [], "was_cancelled": chosen is None}
    server.client.post(f"/api/tasks/{task['id']}/annotations/", json=said).raise_for_status()


def exported(server: RealServer, project: int, form: str, folder: Path) -> Path:
    answer = server.client.get(f"/api/projects/{project}/export", params={"exportType": form})
    answer.raise_for_status()
    file = folder / f"project-{form}.{FORMS[form]}"
    file.write_bytes(answer.content)
    return file


def copy_of(run: Run, folder: Path) -> Path:
    """A copy of the pool, unlabeled."""
    shutil.copytree(run.path.parent / "pool", folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def project(run: Run, label_studio: RealServer) -> int:
    told = mcscore("label-studio", "push", run.path, *place(label_studio), "--project", "pictures", "--quiet")
    assert (told["exit_code"], told["added"], told["there"], told["uploaded"], told["made"]) == (0, 31, 0, 31, True)
    return told["project"]


def test_pictures_and_prelabels_arrive(run: Run, project: int, label_studio: RealServer) -> None:
    tasks = tasks_of(label_studio, project)
    pool = Pool.open(run.path.parent / "pool")
    assert len(tasks) == 31
    for task in tasks:
        id, (prediction,) = task["data"]["item"], task["predictions"]
        assert task["data"]["key"] == KEYS[id]
        picture = label_studio.client.get(task["data"]["image"])
        assert picture.status_code == 200
        assert (np.asarray(Image.open(io.BytesIO(picture.content))) == pool.take([id])[0].transpose(1, 2, 0)).all()
        (region,) = prediction["result"]
        assert region["value"]["choices"] == [CLASSES[run.prediction[id]]]
        assert prediction["score"] == pytest.approx(1 / (1 + run.scores("bald")[id]))
        assert prediction["model_version"].startswith("mcscore ")


def test_what_is_there_is_not_pushed_again(run: Run, project: int, label_studio: RealServer) -> None:
    again = mcscore("label-studio", "push", run.path, *place(label_studio), "--project", project, "--quiet")
    assert (again["added"], again["there"], again["uploaded"], again["made"]) == (0, 31, 0, False)
    run.select(35, "bald", "none")
    more = mcscore("label-studio", "push", run.path, *place(label_studio), "--project", "pictures", "--quiet")
    assert (more["added"], more["there"], more["project"]) == (4, 31, project)
    items = [task["data"]["item"] for task in tasks_of(label_studio, project)]
    assert len(set(items)) == len(items) == 35


@pytest.fixture(scope="module")
def labeled(run: Run, project: int, label_studio: RealServer) -> dict[int, int]:
    """What was said of each item; of the first five tasks: two skipped, two without a choice, one twice the same."""
    tasks, said = tasks_of(label_studio, project), {}
    assert len(tasks) == 35
    for at, task in enumerate(tasks):
        id = task["data"]["item"]
        if at < 4:
            annotate(label_studio, task, None if at < 2 else [])
            continue
        said[id] = (id * 3 + 1) % len(CLASSES)
        for _ in range(2 if at == 4 else 1):
            annotate(label_studio, task, [CLASSES[said[id]]])
    return said


@pytest.mark.parametrize("form", ["API", *FORMS])
def test_all_labels_are_on_their_items(
    run: Run, project: int, labeled: dict[int, int], label_studio: RealServer, form: str, tmp_path: Path
) -> None:
    pool = copy_of(run, tmp_path / "pool")
    source: list[object] = [*place(label_studio), "--project", project]
    if form != "API":
        source = ["--file", exported(label_studio, project, form, tmp_path)]
    told = mcscore("label-studio", "pull", run.path, *source, "--pool", pool)
    assert (told["exit_code"], told["changed"], told["labeled"], told["unlabeled"]) == (0, 31, 32, 2)
    assert told["skipped"] == (2 if form in ("API", "JSON") else 0)  # the others leave skipped tasks out
    labels = Pool.open(pool).labels
    assert {id: int(labels[id]) for id in np.flatnonzero(labels >= 0)} == labeled
    again = mcscore("label-studio", "pull", run.path, *source, "--pool", pool)
    assert (again["exit_code"], again["changed"]) == (0, 0)


def test_pool_label_reads_the_tables_too(
    run: Run, project: int, labeled: dict[int, int], label_studio: RealServer, tmp_path: Path
) -> None:
    for form in ("CSV", "TSV"):
        pool = Pool.open(copy_of(run, tmp_path / form))
        label_from(pool, exported(label_studio, project, form, tmp_path), reading="names")
        assert {id: int(pool.labels[id]) for id in np.flatnonzero(pool.labels >= 0)} == labeled


def test_two_opinions_are_a_conflict_and_change_nothing(run: Run, label_studio: RealServer, tmp_path: Path) -> None:
    told = mcscore("label-studio", "push", run.path, *place(label_studio), "--project", "two people", "--quiet")
    first, second = tasks_of(label_studio, told["project"])[:2]
    annotate(label_studio, first, ["cat"])
    annotate(label_studio, second, ["cat"])
    annotate(label_studio, second, ["7"])
    pool = copy_of(run, tmp_path / "pool")
    source = [*place(label_studio), "--project", "two people", "--pool", pool]
    told = mcscore("label-studio", "pull", run.path, *source)
    assert told["exit_code"] == 1
    assert f"item {second['data']['item']} is given both 0 and 2" in told["message"]
    assert (Pool.open(pool).labels == -1).all()
    Pool.open(pool).set_labels([first["data"]["item"]], [3])
    assert "is labeled 3 and would become 0" in mcscore("label-studio", "pull", run.path, *source)["message"]


def test_texts_with_several_labels_come_back(label_studio: RealServer, tmp_path: Path) -> None:
    run = make_run(tmp_path, likelihood="bernoulli", k=12)
    texts = tmp_path / "texts.csv"
    texts.write_text("id,said\n" + "".join(f'{i},"text {i}, ""ü"" <b>"\n' for i in range(43)))
    words = ["--project", "texts", "--text", f"{texts}:said", "--quiet"]
    told = mcscore("label-studio", "push", run.path, *place(label_studio, label_studio.legacy), *words)
    assert (told["exit_code"], told["added"], told["uploaded"]) == (0, 12, 0)
    tasks = tasks_of(label_studio, told["project"])
    said: dict[int, list[int]] = {}
    for at, task in enumerate(tasks):
        id = task["data"]["item"]
        assert task["data"]["text"] == f'text {id}, "ü" <b>'
        said[id] = sorted({at % 5, (at * 2) % 5}) if at % 4 else []
        annotate(label_studio, task, [CLASSES[c] for c in said[id]], "text")
    for form in ("API", *FORMS):
        source = [*place(label_studio), "--project", told["project"]]
        if form != "API":
            source = ["--file", exported(label_studio, told["project"], form, tmp_path)]
        shutil.rmtree(run.path / "labels", ignore_errors=True)
        pulled = mcscore("label-studio", "pull", run.path, *source)
        assert (pulled["exit_code"], pulled["changed"]) == (0, 12), form
        rows = [line.split(",")[0] for line in (run.path / "labels" / "labels.csv").read_text().splitlines()[1:]]
        assert sorted(map(int, rows)) == sorted(said)
        entries = [json.loads(line) for line in (run.path / "labels" / "log.jsonl").read_text().splitlines()]
        assert {entry["id"]: entry["value"] for entry in entries} == said


def test_what_the_server_refuses_is_one_sentence(run: Run, label_studio: RealServer) -> None:
    for token in ("wrong", label_studio.token[:-5] + "AAAAA"):
        told = mcscore("label-studio", "push", run.path, *place(label_studio, token), "--project", "x", "--quiet")
        assert told["exit_code"] == 1
        assert f"Label Studio at {label_studio.url} answers 401" in told["message"]
    told = mcscore("label-studio", "pull", run.path, *place(label_studio), "--project", "nobody's")
    assert 'has no project "nobody\'s"' in told["message"]
    told = mcscore(
        "label-studio", "push", run.path, "--url", "http://127.0.0.1:1", "--token", "x", "--project", "x", "--quiet"
    )
    assert "cannot be reached" in told["message"]
    other = (
        "<View><Text name='text' value='$text'/><Choices name='mood' toName='text'><Choice value='a'/></Choices></View>"
    )
    label_studio.client.post("/api/projects/", json={"title": "other", "label_config": other}).raise_for_status()
    told = mcscore("label-studio", "push", run.path, *place(label_studio), "--project", "other", "--quiet")
    assert "no control of the name 'label'" in told["message"]
