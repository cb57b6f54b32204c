"""What the server gives and takes: by a client, and by what is in the pool after."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mcscore import Pool
from mcscore.errors import RunError
from mcscore.run import Run

from .conftest import CLASSES, Client, Serve, make_run


def log_of(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.path / "labels" / "log.jsonl").read_text().splitlines()]


def test_the_page_is_told_what_the_run_says_of_each_selected_item(run: Run, serve: Serve) -> None:
    said = serve(run).ask("/api/session")
    chosen = run.select(7, "bald", "none")
    assert (said["classes"], said["several"], said["kind"], said["by"]) == (CLASSES, False, "image", "bald")
    assert [item["id"] for item in said["items"]] == chosen.ids.tolist()
    assert [item["key"] for item in said["items"]] == [f"in/{i:03}.png" for i in chosen.ids]
    assert [item["prediction"] for item in said["items"]] == run.prediction[chosen.ids].tolist()
    np.testing.assert_allclose([item["scores"]["bald"] for item in said["items"]], chosen.scores, rtol=1e-5)
    np.testing.assert_allclose(
        [item["scores"]["entropy"] for item in said["items"]], run.values("entropy", chosen.ids), rtol=1e-5
    )
    assert said["states"] == [[None, False]] * 7
    assert all(item["guesses"] is None for item in said["items"])  # the run has kept no probabilities


def test_a_label_is_in_the_pool_and_the_log_when_the_server_answers(run: Run, serve: Serve) -> None:
    client, pool = serve(run), Pool.open(run.meta["pool"]["path"])
    first, second = (int(i) for i in run.select(7, "bald", "none").ids[:2])
    assert client.give(first, None, 2) == (200, {"value": 2})
    assert client.give(second, None, 0) == (200, {"value": 0})
    assert np.flatnonzero(pool.labels >= 0).tolist() == sorted([first, second])
    assert (pool.labels[first], pool.labels[second]) == (2, 0)
    assert client.give(first, 2, None) == (200, {"value": None})  # undo
    assert pool.labels[first] == -1
    assert client.give(first, False, True, "excluded") == (200, {"value": True})
    assert pool.excluded.nonzero()[0].tolist() == [first]
    assert client.ask("/api/states")[:3] == [[None, True], [0, False], [None, False]]
    assert [(entry["id"], entry["field"], entry["had"], entry["value"]) for entry in log_of(run)] == [
        (first, "label", None, 2),
        (second, "label", None, 0),
        (first, "label", 2, None),
        (first, "excluded", False, True),
    ]
    assert {entry["key"] for entry in log_of(run)} == {f"in/{first:03}.png", f"in/{second:03}.png"}


def test_a_label_that_another_window_gave_is_shown_and_not_replaced(run: Run, serve: Serve) -> None:
    one, other, pool = serve(run), serve(run), Pool.open(run.meta["pool"]["path"])
    id = int(run.select(7, "bald", "none").ids[3])
    assert one.give(id, None, 1)[0] == 200
    assert other.give(id, None, 2) == (409, {"changed": 1})
    assert pool.labels[id] == 1
    assert other.give(id, 1, 2) == (200, {"value": 2})  # knowing what it replaces
    assert one.give(id, 1, None) == (409, {"changed": 2})  # an undo does not take away the other's
    assert pool.labels[id] == 2
    assert one.give(id, None, 2)[0] == 200  # an answer that was lost may be asked for again
    pool.set_excluded([id])
    assert one.give(id, True, False, "excluded")[0] == 200
    pool.set_excluded([id])
    assert [entry["window"] for entry in log_of(run) if entry["field"] == "label"] == ["w1", "w2"]
    pool.set_labels([id], [0])  # by `mcscore pool label`, say
    assert one.give(id, 2, 1) == (409, {"changed": 0})


def test_of_windows_that_race_for_an_item_one_wins_and_the_others_are_told(run: Run, serve: Serve) -> None:
    clients, pool = [serve(run), serve(run)], Pool.open(run.meta["pool"]["path"])
    ids = run.select(7, "bald", "none").ids.tolist()
    with ThreadPoolExecutor(6) as threads:
        for id in ids:
            answers = list(threads.map(lambda n, id=id: (n % 3, clients[n % 2].give(id, None, n % 3)), range(6)))
            now = int(pool.labels[id])
            assert [status for value, (status, _) in answers if value == now] == [200, 200]
            assert [answer for value, answer in answers if value != now] == [(409, {"changed": now})] * 4
    assert sorted(entry["id"] for entry in log_of(run)) == sorted(ids)  # each once


@pytest.mark.parametrize(
    ("given", "status", "sentence"),
    [
        ((0, None, 3), 400, "label 3 at position 0 is outside"),
        ((0, None, -1), 400, "a label is the number of a class, not -1"),
        ((0, None, "cat"), 400, "a label is the number of a class, not 'cat'"),
        ((0, None, True), 400, "a label is the number of a class, not True"),
        ((0, None, [1]), 400, r"a label is the number of a class, not [1]"),
        ((0, None, 1, "keys"), 400, "'keys' with 1 is nothing"),
        ((0, False, 1, "excluded"), 400, "'excluded' with 1 is nothing"),
        ((None, None, 1), 400, "is not in selection-0001.parquet"),
    ],
)
def test_what_cannot_be_given_changes_nothing(run: Run, serve: Serve, given: tuple, status: int, sentence: str) -> None:
    ids = run.select(7, "bald", "none").ids
    unselected = next(i for i in range(run.n) if i not in ids)
    id = unselected if given[0] is None else int(ids[0])
    answer = serve(run).give(id, *given[1:])
    assert answer[0] == status
    assert sentence in answer[1]["error"]
    pool = Pool.open(run.meta["pool"]["path"])
    assert (pool.labels == -1).all()
    assert not pool.excluded.any()


def test_only_who_has_the_token_is_answered_and_only_by_the_name_of_this_machine(run: Run, serve: Serve) -> None:
    client = serve(run)
    id = int(run.select(7, "bald", "none").ids[0])
    for path in ("/", "/api/session", "/api/states", f"/api/item/{id}", f"/api/picture/{id}"):
        for token in (None, "", "secreT", "secret2"):
            assert Client(client.port, token).send(path)[0] == 403, (path, token)
        assert Client(client.port, None).send(f"{path}?token=secret")[0] == 200
        assert client.send(path, Host="evil.example:80")[0] == 403
        assert client.send(path, Host=f"localhost:{client.port}")[0] == 200
    change = {"id": id, "field": "label", "had": None, "value": 1, "window": "w"}
    assert Client(client.port, "wrong").send("/api/give", change)[0] == 403
    assert client.send("/api/give", change, Host="evil.example")[0] == 403
    assert (Pool.open(run.meta["pool"]["path"]).labels == -1).all()
    assert client.send("/api/give", b"{")[0] == client.send("/api/give", b"[1]")[0] == 400
    assert client.send("/api/give", b" " * 70_000)[0] == 413


def test_the_page_and_its_parts_are_served_and_fetch_nothing_from_elsewhere(run: Run, serve: Serve) -> None:
    client = serve(run)
    for path, kind in (
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/dom.js", "text/javascript"),
        ("/theme.css", "text/css"),
        ("/style.css", "text/css"),
    ):
        status, headers, body = client.send(path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert b"https://" not in body
    for path in ("/session.py", "/..%2fserver.py", "/api/picture/22222", "/api/nothing"):
        assert client.send(path)[0] == 404


def test_a_picture_has_the_pixels_of_the_item(run: Run, serve: Serve, images: np.ndarray) -> None:
    from PIL import Image

    client = serve(run)
    for id in run.select(7, "bald", "none").ids[:3].tolist():
        status, headers, body = client.send(f"/api/picture/{id}")
        assert (status, headers["Content-Type"]) == (200, "image/png")
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(body))), images[id].transpose(1, 2, 0))


def test_pictures_of_floats_share_the_range_of_the_selection(tmp_path: Path, serve: Serve) -> None:
    from PIL import Image

    items = np.random.default_rng(1).normal(size=(11, 1, 5, 7)).astype(np.float32)
    run = make_run(tmp_path, items, k=5)
    ids = run.select(5, "bald", "none").ids
    low, high = items[ids].min(), items[ids].max()
    client = serve(run)
    for id in ids.tolist():
        shown = np.asarray(Image.open(io.BytesIO(client.send(f"/api/picture/{id}")[2])))
        np.testing.assert_allclose(shown, (items[id, 0] - low) / (high - low) * 255, atol=0.51)


def test_an_image_that_the_pool_keeps_encoded_is_shown_whole(tmp_path: Path, serve: Serve) -> None:
    from PIL import Image

    from mcscore.ingest.images import import_images

    folder = tmp_path / "in"
    folder.mkdir()
    made = np.random.default_rng(2).integers(0, 256, (6, 20, 31, 3), np.uint8)
    for i, pixels in enumerate(made):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    import_images(folder, tmp_path / "encoded", size=8, keep_encoded=True)
    pool = Pool.open(tmp_path / "encoded")
    assert pool.storage.offsets is not None
    from mcscore.label_app.content import Content

    shown = Image.open(io.BytesIO(Content(pool, np.arange(6)).png(4)))
    assert pool.keys is not None
    at = int(str(pool.keys[4]).removesuffix(".png"))
    np.testing.assert_array_equal(np.asarray(shown), made[at])  # 20 x 31, where the model sees 8 x 8


def test_arrays_and_texts_are_shown_as_they_are(tmp_path: Path, serve: Serve) -> None:
    rng = np.random.default_rng(4)
    words = ["ein Haus", "zwei Bäume", "", "drei\nZeilen", "1 < 2 & <b>"]
    texts = np.zeros((5, 17), np.uint8)
    for row, word in zip(texts, words, strict=True):
        row[: len(word.encode())] = list(word.encode())
    signal = rng.normal(size=(5, 6)).astype(np.float32)
    signal[2, 3] = np.nan
    grid = rng.normal(size=(5, 2, 3, 2, 3)).astype(np.float64)
    for name, items, kind in (("t", texts, "text"), ("v", signal, "vector"), ("n", grid, "numbers")):
        (tmp_path / name).mkdir()
        run = make_run(tmp_path / name, items, k=3)
        ids = run.select(3, "bald", "none").ids.tolist()
        client = serve(run)
        assert client.ask("/api/session")["kind"] == kind
        for id in ids:
            said = client.ask(f"/api/item/{id}")
            if kind == "text":
                assert said == {"kind": "text", "text": words[id]}
            else:
                flat = items[id].ravel()
                assert [v is None for v in said["values"]] == np.isnan(flat).tolist()
                np.testing.assert_allclose([v or 0 for v in said["values"]], np.nan_to_num(flat), rtol=1e-5)
                assert said["n"] == flat.size
            assert client.send(f"/api/picture/{id}")[0] == 404


def test_bytes_that_are_no_text_are_numbers(tmp_path: Path, serve: Serve) -> None:
    items = np.full((4, 5), 65, np.uint8)
    items[:, 4] = 200  # no UTF-8
    run = make_run(tmp_path, items, k=2, keys=False)
    said = serve(run).ask("/api/session")
    assert (said["kind"], said["items"][0]["key"]) == ("vector", None)


def test_probabilities_that_the_run_has_kept_are_shown(tmp_path: Path, serve: Serve, images: np.ndarray) -> None:
    from mcscore.run.selecting.samples_file import write_samples

    run = make_run(tmp_path, images, k=4)
    ids = run.select(4, "bald", "none").ids
    kept = np.sort(ids[:3])
    p_nTC = np.random.default_rng(0).dirichlet(np.ones(3), (3, 6)).astype(np.float32)
    write_samples(run.path / "samples-candidates.bin", {"model": run.meta["model"]["fingerprint"]}, kept, p_nTC)
    items = serve(run).ask("/api/session")["items"]
    assert items[3]["guesses"] is None
    for item in items[:3]:
        mean = p_nTC[np.searchsorted(kept, item["id"])].mean(axis=0)
        assert [number for number, _ in item["guesses"]] == np.argsort(-mean).tolist()
        np.testing.assert_allclose([p for _, p in item["guesses"]], np.sort(mean)[::-1], atol=1e-4)
    write_samples(run.path / "samples-candidates.bin", {"model": "sha256:another"}, kept, p_nTC)
    assert all(item["guesses"] is None for item in serve(run).ask("/api/session")["items"])


def test_a_pool_without_class_names_is_labeled_with_numbers(tmp_path: Path, serve: Serve, images: np.ndarray) -> None:
    run = make_run(tmp_path, images, classes=None, k=3)
    client = serve(run)
    said = client.ask("/api/session")
    assert (said["named"], said["classes"]) == (False, [str(i) for i in range(10)])
    assert client.give(said["items"][0]["id"], None, 41) == (200, {"value": 41})
    assert Pool.open(run.meta["pool"]["path"]).labels[said["items"][0]["id"]] == 41
    assert len(serve(run).ask("/api/session")["classes"]) == 42


def test_several_labels_are_kept_in_the_run(tmp_path: Path, serve: Serve, images: np.ndarray) -> None:
    from mcscore.label_app.session import Session
    from mcscore.pool.tables import items_from

    run = make_run(tmp_path, images, likelihood="bernoulli", k=4, classes=["cat", "=dog", "emu"])
    one, other, pool = serve(run), serve(run), Pool.open(run.meta["pool"]["path"])
    assert one.ask("/api/session")["several"] is True
    a, b, c, _ = run.select(4, "bald", "none").ids.tolist()
    assert one.give(a, None, [2, 0])[0] == one.give(b, None, [])[0] == one.give(c, None, [1])[0] == 200
    assert other.give(a, None, [1]) == (409, {"changed": [0, 2]})
    assert other.give(a, [0, 2], [1])[0] == 200
    assert one.give(c, [1], None)[0] == 200
    assert one.give(c, None, [3])[1]["error"] == "there is no class 3: the pool has 3"
    assert one.give(c, None, 1)[1]["error"] == "labels are a list of numbers of classes, not 1"
    assert other.ask("/api/states") == [[[1], False], [[], False], [None, False], [None, False]]
    assert (pool.labels == -1).all()
    said = Session(run).close()
    table = run.path / "labels" / "labels.csv"
    assert said[0] == "2 of 4 items labeled"
    assert str(table) in said[1]
    rows = sorted([(a, f"in/{a:03}.png,0,1,0"), (b, f"in/{b:03}.png,0,0,0")])
    assert table.read_text() == "id,key,cat,'=dog,emu\n" + "".join(f"{id},{rest}\n" for id, rest in rows)
    assert items_from(pool, str(table)).tolist() == sorted([a, b])


def test_a_run_that_predicts_numbers_is_refused(tmp_path: Path, images: np.ndarray) -> None:
    from mcscore.label_app.session import Session

    pool = Pool.create(tmp_path / "pool", images)
    import torch

    from mcscore import Scorer, score_pool

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(351, 4), torch.nn.Dropout(), torch.nn.Linear(4, 1))
    run = score_pool(pool, Scorer(model, passes=4, scores=("variance",), likelihood="gaussian"), tmp_path / "run")
    with pytest.raises(RunError, match="predicts numbers, and the page gives classes"):
        Session(run)


def test_a_port_that_is_taken_is_told(run: Run, serve: Serve) -> None:
    from mcscore.label_app.server import Server
    from mcscore.label_app.session import Session

    port = serve(run).port
    with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 cannot be served: .*; give another --port"):
        Server(Session(run), port)


def test_only_the_chunks_that_changed_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcscore.label_app.watched import Watched
    from mcscore.store.columns import Column

    pool = Pool.create(tmp_path / "pool", np.zeros((2_100_001, 1), np.uint8))  # three chunks of labels
    layout = pool.storage.columns["labels"]
    assert layout.chunk == 1 << 20
    ids = np.array([2_099_000, 3, 1_100_000, 5])
    watched, read = Watched(layout, ids), list[list[int]]()
    at = Column.at
    monkeypatch.setattr(Column, "at", lambda self, some: read.append(some.tolist()) or at(self, some))
    assert watched.now().tolist() == [-1, -1, -1, -1]
    assert sorted(read) == [[3, 5], [1_100_000], [2_099_000]]
    read.clear()
    assert watched.now().tolist() == [-1, -1, -1, -1]
    assert read == []
    for label in (7, 8, 7):
        pool.set_labels([5], [label])
        assert watched.now().tolist() == [-1, -1, -1, label]
    assert read == [[3, 5]] * 3


def test_a_token_that_no_request_can_carry_is_refused(run: Run) -> None:
    pytest.importorskip("waitress", reason="the labeling page needs waitress")
    from mcscore.label_app.server import Server
    from mcscore.label_app.session import Session

    with pytest.raises(RunError, match="printable ASCII"):
        Server(Session(run), token="é")
