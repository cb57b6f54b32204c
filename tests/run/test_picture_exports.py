"""Exports that name pictures name files that exist, which are the items, or say what to give."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mcscore.errors import PoolError, RunError
from mcscore.ingest import import_images
from mcscore.pool import Pool
from mcscore.run import Run, score_pool
from mcscore.run.export.images import size_of

from .fakes import Column, FakePool, FakeScorer

N = 10
CLASSES = ["cat", "<d & og>", *(f"class {i}" for i in range(2, 9))]  # the last class has no name
KEYS = [f"sub/{i}, ü #1%.png" for i in range(N)]
SIZES = [(5 + i, 7) for i in range(N)]
LISTS = ["fiftyone", "coco", "cvat", "cvat-manifest"]


class Scorer(FakeScorer):
    """Scores any items as those of FakePool."""

    def __call__(self, items: np.ndarray, ids: np.ndarray) -> dict[str, Column]:
        return super().__call__(FakePool().read(0, len(FakePool().labels))[ids], ids)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures on disk, each of another size, and those of SOURCES."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "in" / "sub").mkdir(parents=True)
    for key, size, value in zip(KEYS, SIZES, range(N), strict=True):
        Image.new("RGB", size, (value, 0, 255 - value)).save(folder / "in" / key)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """Of items that are no images, which have the keys of the pictures; class i is predicted for item i."""
    pool = Pool.create(folder / "pool", FakePool().read(0, N), keys=KEYS, classes=CLASSES)
    run = score_pool(pool, FakeScorer(), folder / "run")
    assert run.prediction.tolist() == list(range(N))
    run.select(4, by="bald", diversity="none")
    return run


def names_of(file: Path, format: str) -> list[str]:
    """What a file calls its pictures."""
    if format == "fiftyone":
        return list(json.loads(file.read_text())["labels"])
    if format == "coco":
        return [image["file_name"] for image in json.loads(file.read_text())["images"]]
    if format == "cvat":
        return [image.get("name", "") for image in ElementTree.parse(file).getroot().iter("image")]
    lines = [json.loads(line) for line in file.read_text().splitlines()[2:]]
    return [line["name"] + line["extension"] for line in lines]


@pytest.mark.parametrize("format", LISTS)
def test_every_picture_that_is_named_exists(run: Run, folder: Path, format: str, tmp_path: Path) -> None:
    file = run.export(format, tmp_path / "a", prefix=f"{folder}/in/")
    names = names_of(file, format)
    assert names == ([f"{folder}/in/{key}" for key in KEYS] if format == "fiftyone" else KEYS)
    assert all((folder / "in" / name).is_file() for name in names)
    with pytest.raises(RunError, match=rf"0, ü #1%.png is not a file, and {format} names files .*--prefix.*--images"):
        run.export(format, tmp_path / "b")
    assert os.listdir(tmp_path) == ["a"]


def test_fiftyone_gets_paths_labels_and_scores(run: Run, folder: Path, tmp_path: Path) -> None:
    said = json.loads(run.export("fiftyone", tmp_path / "labels.json", prefix=f"{folder}/in/").read_text())
    assert set(said) == {"labels"}  # without classes: the targets are the labels themselves
    item = said["labels"][f"{folder}/in/{KEYS[7]}"]
    assert item["label"] == "class 7"
    assert said["labels"][f"{folder}/in/{KEYS[9]}"]["label"] == "9"
    assert item["attributes"].keys() == {"item", "bald", "entropy"}  # no name that a FiftyOne label has itself, as id
    assert item["attributes"]["item"] == 7
    assert np.float32(item["attributes"]["bald"]) == run.scores("bald")[7]


def test_coco_lists_images_and_claims_no_labels(run: Run, folder: Path, tmp_path: Path) -> None:
    said = json.loads(
        run.export("coco", tmp_path / "a", selection="latest", prefix=os.path.relpath(folder) + "/in/").read_text()
    )
    assert list(said) == ["info", "images", "categories", "annotations"]
    assert said["annotations"] == []
    assert said["categories"] == [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    best = np.argsort(-run.scores("bald"), kind="stable")[:4]
    assert [image["id"] for image in said["images"]] == best.tolist()
    for image in said["images"]:
        assert (image["width"], image["height"]) == SIZES[image["id"]]
        assert image["prediction"] == (CLASSES[image["id"]] if image["id"] < 9 else 9)
        assert np.float32(image["bald"]) == run.scores("bald")[image["id"]]


def test_cvat_gets_predictions_as_tags(run: Run, folder: Path, tmp_path: Path) -> None:
    root = ElementTree.parse(run.export("cvat", tmp_path / "a", prefix=f"{folder}/in/")).getroot()
    assert [each.text for each in root.iterfind("meta/task/labels/label/name")] == CLASSES
    images = list(root.iter("image"))
    assert [image.get("id") for image in images] == [str(i) for i in range(N)]
    assert [(int(image.get("width", 0)), int(image.get("height", 0))) for image in images] == SIZES
    tags = [[tag.get("label") for tag in image.iter("tag")] for image in images]
    assert tags == [[name] for name in CLASSES] + [[]]
    assert {tag.get("source") for tag in root.iter("tag")} == {"auto"}


def test_a_manifest_has_size_item_and_scores_of_each_image(run: Run, folder: Path, tmp_path: Path) -> None:
    file = run.export("cvat-manifest", tmp_path / "a", prefix=f"{folder}/in/")
    version, kind, *lines = (json.loads(line) for line in file.read_text().splitlines())
    assert (version, kind) == ({"version": "1.1"}, {"type": "images"})
    assert [line["meta"]["mcscore"]["item"] for line in lines] == list(range(N))
    assert [(line["width"], line["height"]) for line in lines] == SIZES
    assert all(line["extension"] == ".png" for line in lines)


def test_sizes_are_those_of_upright_pictures_of_every_kind(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (9, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert size_of(str(tmp_path / "turned.jpg")) == (4, 9)
    pytest.importorskip("pillow_heif").from_pillow(Image.new("RGB", (10, 6))).save(tmp_path / "a.heic")
    assert size_of(str(tmp_path / "a.heic")) == (10, 6)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(RunError, match=r"the size of .*b\.png cannot be read: cannot identify"):
        size_of(str(tmp_path / "b.png"))


# -- pictures that are written -----------------------------------------------------------------------------------------


def scored(pool: Pool, folder: Path, k: int = 3) -> Run:
    run = score_pool(pool, Scorer(), folder)
    run.select(k, by="bald", diversity="none")
    return run


@pytest.mark.parametrize("format", LISTS)
def test_items_of_an_array_become_png(format: str, tmp_path: Path) -> None:
    items = np.random.default_rng(0).integers(0, 256, (N, 3, 5, 7), np.uint8)
    run = scored(Pool.create(tmp_path / "pool", items, keys=KEYS if format == "coco" else None), tmp_path / "run")
    file = run.export(format, tmp_path / "a", selection="latest", images=tmp_path / "for" / "people")
    names, ids = names_of(file, format), np.argsort(-run.scores("bald"), kind="stable")[:3]
    stem = "-{0}_1" if format == "coco" else ""
    expected = [f"{id}{stem.format(id)}.png" for id in ids]
    assert [Path(name).name for name in names] == expected
    assert sorted(os.listdir(tmp_path / "for" / "people")) == sorted(expected)
    for name, id in zip(names, ids, strict=True):
        picture = np.asarray(Image.open(tmp_path / "for" / "people" / name))
        assert (picture == items[id].transpose(1, 2, 0)).all()


def test_encoded_images_are_written_as_they_came(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for i in range(3):
        image = Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 30, 3), np.uint8))
        image.save(source / f"photo {i}.dat.png", "JPEG" if i else "PNG")
    pool = import_images(source, tmp_path / "pool", size=4, keep_encoded=True, workers=1)
    run = scored(pool, tmp_path / "run")
    names = names_of(run.export("coco", tmp_path / "a", images=tmp_path / "out"), "coco")
    assert names == ["0-photo_0_dat.png", "1-photo_1_dat.jpg", "2-photo_2_dat.jpg"]
    for i, name in enumerate(names):
        assert (tmp_path / "out" / name).read_bytes() == (source / f"photo {i}.dat.png").read_bytes()
    size = [(image["width"], image["height"]) for image in json.loads((tmp_path / "a").read_text())["images"]]
    assert size == [(30, 40)] * 3


def test_floats_are_on_one_scale(tmp_path: Path) -> None:
    items = np.arange(N * 20, dtype=np.float32).reshape(N, 4, 5) - 7
    run = scored(Pool.create(tmp_path / "pool", items), tmp_path / "run")
    run.export("coco", tmp_path / "a", images=tmp_path / "out")
    shown = [np.asarray(Image.open(tmp_path / "out" / f"{i}.png")) for i in range(N)]
    assert (np.stack(shown) == np.round((items + 7) / (N * 20 - 1) * 255).astype(np.uint8)).all()


def test_pictures_that_are_there_stay(tmp_path: Path) -> None:
    run = scored(Pool.create(tmp_path / "pool", np.zeros((N, 4, 4), np.uint8)), tmp_path / "run")
    run.export("coco", tmp_path / "a", images=tmp_path / "out")
    before = os.stat(tmp_path / "out" / "0.png").st_mtime_ns
    run.export("coco", tmp_path / "a", images=tmp_path / "out")
    assert os.stat(tmp_path / "out" / "0.png").st_mtime_ns == before
    (tmp_path / "out" / "0.png").write_bytes(b"mine")
    with pytest.raises(RunError, match=r"out/0.png exists and has another content"):
        run.export("coco", tmp_path / "a", images=tmp_path / "out")
    assert (tmp_path / "out" / "0.png").read_bytes() == b"mine"


def test_label_studio_gets_the_address_of_what_is_written(tmp_path: Path) -> None:
    run = scored(Pool.create(tmp_path / "pool", np.zeros((N, 4, 4), np.uint8), keys=KEYS), tmp_path / "run")
    where = "/data/local-files/?d=batch/"
    file = run.export("label-studio", tmp_path / "a.json", images=tmp_path / "out", prefix=where)
    for task in json.loads(file.read_text()):
        name = task["data"]["image"].removeprefix(where)
        assert name == f"{task['data']['item']}-{task['data']['item']}_1.png"
        assert Image.open(io.BytesIO((tmp_path / "out" / name).read_bytes())).size == (4, 4)


def test_label_studio_gets_what_browsers_show(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    Image.fromarray(image).save(source / "a.tif")
    run = scored(import_images(source, tmp_path / "pool", size=4, keep_encoded=True, workers=1), tmp_path / "run", k=1)
    assert names_of(run.export("coco", tmp_path / "a", images=tmp_path / "out"), "coco") == ["0-a.tif"]
    run.export("label-studio", tmp_path / "b", images=tmp_path / "out", prefix="/")
    assert sorted(os.listdir(tmp_path / "out")) == ["0-a.png", "0-a.tif"]
    assert (np.asarray(Image.open(tmp_path / "out" / "0-a.png")) == image).all()


def test_label_studio_gets_texts(run: Run, tmp_path: Path) -> None:
    texts = {i: f'text "{i}" <b> ü' for i in range(N)}
    tasks = json.loads(run.export("label-studio", tmp_path / "a", texts=texts).read_text())
    assert {task["data"]["item"]: task["data"]["text"] for task in tasks} == texts
    assert not any("image" in task["data"] for task in tasks)
    assert tasks[2]["predictions"][0]["result"][0]["to_name"] == "text"
    assert ElementTree.parse(tmp_path / "a.xml").find("Text") is not None
    with pytest.raises(RunError, match=r"item 5 has no text: .*--text"):
        run.export("label-studio", tmp_path / "b", texts=dict.fromkeys(range(5), "a"))


def test_what_makes_no_sense_is_refused(run: Run, tmp_path: Path) -> None:
    def export(format: str, **how: object) -> None:
        run.export(format, tmp_path / "a", **how)  # type: ignore[arg-type]

    for format in ("parquet", "csv", "jsonl"):
        with pytest.raises(RunError, match=f"{format} names no pictures: leave out prefix"):
            export(format, prefix="x/")
        with pytest.raises(RunError, match=f"{format} has no texts"):
            export(format, texts={})
    with pytest.raises(RunError, match=r"s3://b/ is a URL: give a folder"):
        export("coco", prefix="s3://b/")
    with pytest.raises(RunError, match=r"names the pictures where they are written"):
        export("cvat", prefix="x/", images=tmp_path)
    with pytest.raises(RunError, match=r"by their address: say with prefix .*--prefix"):
        export("label-studio", images=tmp_path)
    with pytest.raises(RunError, match=r"as texts or as pictures"):
        export("label-studio", images=tmp_path, prefix="x", texts={})
    with pytest.raises(PoolError, match=r"items of .*pool are float32 \(4,\), which are no images"):
        export("fiftyone", images=tmp_path / "out")
    with pytest.raises(RunError, match=r"is no local path, and pictures cannot be written there"):
        export("fiftyone", images="s3://b/out")
    assert os.listdir(tmp_path) == []
