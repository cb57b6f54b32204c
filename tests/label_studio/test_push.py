"""What is pushed arrives once, with its picture, however often and wherever a push was cut short."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mcscore import Run
from mcscore.cli import main
from mcscore.errors import RunError
from mcscore.label_studio import Server, push
from mcscore.label_studio.server import Project, choices_of
from mcscore.run.export.label_studio import label_config

from .conftest import CLASSES, KEYS, make_run


class FakeServer:
    """A server in memory, which fails at the request of the number ``fails`` that adds tasks."""

    def __init__(self, fails: int = -1) -> None:
        self.config: str | None = None
        self.made: list[dict[str, Any]] = []
        self.pictures: dict[str, bytes] = {}
        self.fails = fails

    def project(self, name: str, config: str | None = None) -> Project:
        made = self.config is None
        self.config = self.config or config
        return Project(7, name, made)

    def tasks(self, _project: int, *, annotated: bool = False) -> Iterator[dict[str, Any]]:
        assert not annotated
        yield from ({"id": at, "data": task["data"], "annotations": []} for at, task in enumerate(self.made))

    def add(self, _project: int, tasks: Sequence[dict[str, Any]]) -> None:
        if self.fails == 0:
            raise RunError("Label Studio cannot be reached")
        self.fails -= 1
        self.made += json.loads(json.dumps(tasks))

    def upload(self, _project: int, files: Sequence[Path]) -> dict[str, str]:
        self.pictures |= {f"/data/upload/7/abc-{file.name}": file.read_bytes() for file in files}
        return {file.name: f"/data/upload/7/abc-{file.name}" for file in files}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


def given(run: Run, server: FakeServer, **how: Any) -> Any:
    return push(run, server, "title", **how)  # type: ignore[arg-type]


def test_pictures_are_uploaded_and_named(run: Run) -> None:
    server, told = FakeServer(), list[tuple[int, int]]()
    done = given(run, server, progress=lambda *at: told.append(at))
    assert (done.added, done.there, done.uploaded, done.project.made) == (31, 0, 31, True)
    assert told == [(25, 31), (31, 31)]
    assert choices_of(server.config or "") == set(CLASSES)
    items = np.random.default_rng(5).integers(0, 256, (43, 3, 9, 13), np.uint8)
    for task in server.made:
        picture = np.asarray(Image.open(io.BytesIO(server.pictures[task["data"]["image"]])))
        assert (picture == items[task["data"]["item"]].transpose(1, 2, 0)).all()


def test_a_push_that_was_cut_short_is_completed(run: Run) -> None:
    server = FakeServer(fails=1)
    with pytest.raises(RunError, match="cannot be reached"):
        given(run, server)
    assert len(server.made) == 25
    server.fails = -1
    done = given(run, server)
    assert (done.added, done.there, done.uploaded) == (6, 25, 6)
    assert len({task["data"]["item"] for task in server.made}) == len(server.made) == 31
    assert given(run, server).added == 0


def test_addresses_and_all_items(run: Run) -> None:
    server = FakeServer()
    done = given(run, server, selection=None, prefix="https://host/a%20b/")
    assert (done.added, done.uploaded) == (43, 0)
    assert server.made[7]["data"]["image"] == "https://host/a%20b/in/7%2C%20the%20%230%20%2B%20%C3%BC%20100%25.png"
    assert server.made[7]["data"]["key"] == KEYS[7]
    assert given(run, server).there == 31  # the same items, in whatever way they were pushed


@pytest.mark.parametrize(
    ("likelihood", "classes", "control"),
    [
        ("categorical", None, [str(i) for i in range(10)]),
        ("bernoulli", CLASSES, CLASSES),
        ("gaussian", None, ["<Number>"]),
    ],
)
def test_the_configuration_fits_what_is_predicted(
    likelihood: str, classes: list[str] | None, control: list[str], tmp_path: Path
) -> None:
    run = make_run(tmp_path, likelihood=likelihood, classes=classes, k=3)
    server = FakeServer()
    given(run, server)
    assert choices_of(server.config or "") == set(control)
    assert ('choice="multiple"' in (server.config or "")) == (likelihood == "bernoulli")
    for task in server.made:
        (prediction,) = task["predictions"]
        id = task["data"]["item"]
        results = {"categorical": [{"choices": [str(run.prediction[id])]}], "bernoulli": []}
        if likelihood == "gaussian":
            assert np.float32(prediction["result"][0]["value"]["number"]) == run.prediction[id]
        else:
            assert [region["value"] for region in prediction["result"]] == results[likelihood]


def test_many_classes_are_a_list_to_choose_from() -> None:
    assert 'layout="select"' in label_config(tuple(map(str, range(21))), "categorical", "image")
    assert 'layout="select"' not in label_config(tuple(map(str, range(20))), "categorical", "image")


@pytest.mark.skipif(importlib.util.find_spec("label_studio_sdk") is not None, reason="the SDK is installed")
def test_without_the_sdk_the_way_there_is_told() -> None:
    with pytest.raises(RunError, match=r"pip install 'mcscore\[label-studio\]'"):
        Server("http://localhost:8080", "token")


def test_what_is_missing_is_wrong_usage(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for verb in ("push", "pull"):
        told = CliRunner().invoke(main, ["label-studio", verb, str(run.path), "--project", "7"])
        assert told.exit_code == 2
        assert "--url and --token must be given" in told.output
    told = CliRunner().invoke(main, ["label-studio", "pull", str(run.path), "--project", "7", "--file", "a.json"])
    assert told.exit_code == 2
