"""The page on the format says what the code does, and is enough to read a run by."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcscore.run import Run
from mcscore.run.record import Record
from mcscore.run.schema import Edit, Hardware, Model, PoolState, RunHeader, read_header
from mcscore.run.screening import Screen
from mcscore.run.spans import Span

from .fakes import begin
from .make_golden import GOLDEN

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = "\n".join(page.read_text() for page in sorted(DOCS.glob("formats*.md")))


def fields_of(section: str) -> dict[str, str]:
    """Field -> default, of the table in a section."""
    (text,) = re.findall(rf"^#+ {re.escape(section)}\n(.*?)^#+ ", PAGE, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`.*?) \| .*? \| (.*?) \|", text, re.MULTILINE)
    return {name.strip("` "): default for names, default in rows for name in names.split(",")}


def test_every_field_of_run_json_is_on_the_page_with_its_default() -> None:
    header = RunHeader.from_json(
        {
            "format": "mcscore-run",
            "version": 2,
            "id": "0" * 32,
            "pool": {"fingerprint": "", "n": 1},
            "span": 1,
            "block_items": 1,
            "model": {"fingerprint": ""},
            "passes": 1,
            "scores": ["bald"],
        },
        Path("run.json"),
    )
    said, listed = header.to_json(), fields_of("run.json")
    assert set(listed) == {*said, "checksum"}
    for name, default in listed.items():
        if default not in ("*required*", "none"):
            assert json.loads(default.strip("`")) == said[name], name
    for schema in (Edit, Hardware, Model, PoolState, Screen):
        for field in dataclasses.fields(schema):
            assert f"`{field.name.rstrip('_')}`" in PAGE, (schema, field.name)


def test_every_field_of_a_record_is_on_the_page() -> None:
    listed = fields_of("Records")
    full = Record("0" * 32, Span(0, 0, 2), 1, (1,), (1,), ((0, 1),), 1.0, 1, {"items": 1}, 1, 1)
    assert set(listed) == set(full.to_json())
    required = {name for name, default in listed.items() if default == "*required*"}
    minimal = {name: value for name, value in full.to_json().items() if name in required}
    assert Record.from_json(minimal, Path("record")).to_json() == minimal | {"seconds": 0.0}


def test_the_checksum_of_run_json_is_computed_as_the_page_says(tmp_path: Path) -> None:
    path = begin(tmp_path / "run").path
    said = json.loads((path / "run.json").read_bytes())
    stored = said.pop("checksum")
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    assert stored == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    (path / "run.json").write_text(json.dumps({"checksum": stored, **said}))  # another layout, the same meaning
    assert read_header(path).to_json() == said


def crc32c(data: bytes) -> int:
    """Castagnoli's polynomial, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def names_of(run: dict[str, Any]) -> list[str]:
    """The names of the array's rows."""
    scores, errors = run["scores"], []
    if run.get("errors", False):
        biased = [score for score in scores if score not in ("least_confidence", "margin", "variation_ratio")]
        errors = [f"{score}_se" for score in scores] + [f"{score}_bias" for score in biased]
    return [*scores, *errors, "prediction"]


@pytest.mark.parametrize("which", ["complete", "half", "with errors"])
def test_a_run_can_be_read_by_the_page_alone(which: str, tmp_path: Path) -> None:
    """Another program, as it would be written from the page: nothing of mcscore is called until the end."""
    path = GOLDEN / f"run-v2-{which}"
    if which == "with errors":
        path = begin(tmp_path / "run", scores=["margin", "bald"], errors=True).path
    run = json.loads((path / "run.json").read_bytes())
    rows, span, n = len(names_of(run)), run["span"], run["pool"]["n"]
    packed = path / "commits" / "packed.jsonl"
    lines = packed.read_bytes().splitlines() if packed.exists() else []
    lines += [file.read_bytes().rstrip(b"\n") for file in sorted((path / "commits").glob("*.json"))]
    values = np.full((rows, n), np.nan, np.float32)
    for line in lines:
        text = line[line.index(b'"record": ') + 10 : -1]
        assert int(json.loads(line)["crc32c"], 16) == crc32c(text)
        record = json.loads(text)
        assert record["run"] == run["id"]
        data = (path / "scores.zarr" / "c" / "0" / str(record["span"])).read_bytes()
        assert len(data) == 48 + rows * (4 * span + 4) + 16 * rows + 4
        magic, run_id, index, items, _conditions, crc = struct.unpack("<8s16sQQII", data[:48])
        assert (magic, run_id.hex(), index, items) == (b"mcshard2", run["id"], record["span"], record["n"])
        assert crc == crc32c(data[:44])
        for row in range(rows):
            offset, size = struct.unpack_from("<QQ", data, len(data) - 4 - 16 * (rows - row))
            assert (offset, size) == (48 + row * (4 * span + 4), 4 * span + 4)
            assert struct.unpack_from("<I", data, offset + size - 4) == (crc32c(data[offset : offset + size - 4]),)
            part = np.frombuffer(data, "<f4", record["n"], offset)
            assert crc32c(part.tobytes()) == record["crc32c"][row]
            values[row, record["start"] : record["start"] + record["n"]] = part
    opened = Run.open(path)
    for row, name in enumerate(names_of(run)[:-1]):
        assert values[row].tobytes() == opened.scores(name).tobytes()
    assert np.where(np.isnan(values[-1]), -1, values[-1]).tolist() == opened.prediction.tolist()
    assert read_header(path).rows == tuple(names_of(run))
