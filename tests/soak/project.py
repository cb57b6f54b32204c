"""A tiny project that the campaigns attack: a pool of vectors with keys and labels, a pool of images, a net, a run."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import mcscore

from . import child
from .child import Answer, give

NET = """
import torch
from torch import nn

SCALE = 1.0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(16, 16), nn.Dropout(0.4), nn.Linear(16, 4)

    def forward(self, x):
        return self.b(self.drop(torch.relu(self.a(x.flatten(1))))) * SCALE


def transform(x):
    return x * 1.0


def build():
    return Net(), transform
"""
ITEMS, ADDED, LABELED = 300, 20, 12
MODEL = ("--model", "net.py:build", "--weights", "net.pt")
SCORE = ("score", "pool", *MODEL, "--passes", 4, "--span", 16, "--quiet", "--json", "--out")
SELECT = ("select", "run", "-k", 10, "--diversity", "radius", "--json")
# Facts that two equal runs do not share.
_VOLATILE = {"seconds", "seconds_left", "items_per_second", "created", "bytes", "run", "pool", "file", "path", "holder"}
_VOLATILE |= {"begun", "host", "pid", "report", "warnings"}


@dataclass(frozen=True)
class Project:
    """A folder with all that a verb needs, kept as it is before any harm.

    A run holds absolute paths, of its pool and its model: so it is harmed where it was made.
    """

    root: Path

    def copy(self, name: str = "case") -> Path:
        """Return the project as it was made, in place of the last copy of that name."""
        target = self.root / name
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(self.root / "whole", target, symlinks=True)
        return target


def make(root: Path) -> Project:
    """Make the project below a folder."""
    whole = root / "case"
    whole.mkdir(parents=True)
    rng = np.random.default_rng(7)
    np.save(whole / "items.npy", rng.integers(0, 256, (ITEMS, 1, 4, 4), dtype=np.uint8))
    for name in "ab":
        np.save(whole / f"{name}.npy", rng.integers(0, 256, (ADDED, 1, 4, 4), dtype=np.uint8))
    labels = np.full(ITEMS, -1, np.int32)
    labels[:LABELED] = np.arange(LABELED) % 4
    np.save(whole / "labels.npy", labels)
    for name in "xy":
        rows = [f"{i},{(i + (name == 'y')) % 4}" for i in range(50, 90)]
        (whole / f"labels-{name}.csv").write_text("\n".join(["id,label", *rows]) + "\n")
    (whole / "net.py").write_text(NET)
    child.preload(whole, _fill)
    shutil.copytree(whole, root / "whole")
    return Project(root)


def _fill() -> None:
    import torch
    from PIL import Image

    torch.manual_seed(3)
    names: dict[str, Any] = {"__name__": "net"}
    exec(compile(NET, "net.py", "exec"), names)
    torch.save(names["Net"]().state_dict(), "net.pt")
    rng = np.random.default_rng(8)
    for folder, count in (("images", 40), ("more", 20)):
        for i in range(count):
            path = Path(folder, f"c{i % 2}", f"{folder}{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(path)
    for command in (
        ("pool", "import", "items.npy", "pool", "--layout", "chw", "--labels", "labels.npy", "--classes", "p,q,r,s"),
        ("pool", "import", "images", "pictures", "--size", 4, "--workers", 1, "--quiet"),
        (*SCORE, "run"),
        SELECT,
        ("report", "run"),
        ("export", "run", "--format", "csv", "--out", "all.csv"),
    ):
        answer = give(*command)
        if answer.code:
            raise RuntimeError(f"{command}: {answer.err}")
    Path("all.csv").unlink()


def facts(answer: Answer) -> Any:
    """Return the JSON that a verb printed, without what differs from call to call."""
    try:
        return _stable(json.loads(answer.out))
    except ValueError:
        return answer.out


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _stable(part) for name, part in value.items() if name not in _VOLATILE}
    return [_stable(part) for part in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, str]:
    """Return a digest of what the data files of a pool, run or table hold, by name; times and paths do not enter.

    Nor does the pool's log of appends, which holds times of files.
    """
    found = scores(folder) if (folder / "run.json").exists() else {}
    for path in _files(folder):
        name = str(path.relative_to(folder)) if path != folder else ""
        if (re.search(r"(^|/)c[./]", name) and not re.match("scores.zarr|appends", name)) or path.suffix == ".csv":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".parquet":
            found[name] = _table(path)
    return found


def names(folder: Path) -> set[str]:
    """Return the names of all files and folders below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
    elif folder.is_dir():
        yield from sorted(path for path in folder.rglob("*") if path.is_file())


def scores(folder: Path) -> dict[str, str]:
    """Return digests of the scores of a run, to the last bit; its files hold the run's own random id beside them."""
    from mcscore.run import Run

    try:
        run = Run.open(folder)
        return {name: hashlib.sha256(run.scores(name).tobytes()).hexdigest() for name in run.meta["scores"]}
    except mcscore.Error as error:
        return {"scores": str(error)}


def _table(path: Path) -> str:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, use_threads=False)
    return hashlib.sha256(repr(table.to_pydict()).encode()).hexdigest()
