"""What a run must go on with beside tensors: an edit of any of it shows by name, and nothing else does."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mcscore.run.identity.code import differences
from mcscore.scorer.identity import fingerprint, identity_of
from mcscore.scorer.model_spec import load_model
from mcscore.scorer.scorer import Scorer

BASE = """
    import torch
    from torch import nn

    class Base(nn.Module):
        factor = 3
        def blend(self, x):
            return x * self.factor
"""
HELPER = """
    import deep
    OFFSET = 0.25
    TABLE = {"low": [1, 2], "high": (3.0, None)}
    def shift(x):
        return deep.sharpen(x - OFFSET) + TABLE["low"][0]
    def unused(x):
        return x
"""
DEEP = """
    def sharpen(x):
        return x * 2
"""
NET = """
    import functools
    import time
    import numpy as np
    import torch
    from torch import nn
    import helper
    from base import Base

    MEAN = 0.5
    WEIGHTS = np.arange(4.0)
    COUNT = 0

    class Scale:
        def __init__(self, by):
            self.by = by
        def __call__(self, x):
            return x * self.by

    class Compose:
        def __init__(self, steps):
            self.steps = steps
        def __call__(self, x):
            for step in self.steps:
                x = step(x)
            return x

    def clip(x, low=0.0, *, high=1.0):
        return x.clamp(low, high)

    class Net(Base):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
            self.temperature = 2.0
            self.order = ["a", {"b": 1}]
            self.shift = torch.ones(4)
            self.calls, self.cache, self.born = 0, None, time.time_ns()
            self.act = lambda x: x.relu()
        def forward(self, x):
            global COUNT
            COUNT += 1
            self.calls += 1
            self.cache = x
            x = self.act(self.blend(x + self.shift)) / self.temperature
            return self.net(x) if self.order else x
        def training_step(self, batch):
            return batch.loss

    def build():
        gain = 1.5
        def transform(x):
            return helper.shift(x.float() / gain - MEAN) * torch.from_numpy(WEIGHTS).float()
        return Net(), Compose([transform, Scale(2), functools.partial(clip, high=9.0)])
"""
FILES = {"base": BASE, "helper": HELPER, "deep": DEEP, "net": NET}


class Project:
    """Files of a user's, loaded anew each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        for name, text in FILES.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))

    def edit(self, name: str, old: str, new: str) -> None:
        file = self.folder / f"{name}.py"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def load(self) -> tuple[nn.Module, Any]:
        for name in FILES:
            sys.modules.pop(name, None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [str(self.folder), *sys.path])
            torch.manual_seed(0)
            loaded = load_model(f"{self.folder / 'net.py'}:build")
        return loaded.module, loaded.transform

    def code(self) -> dict[str, str]:
        found = identity_of(*self.load())
        assert found.unseen == ("value of COUNT, which the code itself changes",)
        return dict(found.code)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(
        sys, "dont_write_bytecode", True
    )  # an edit within the same second would not be seen by the import
    return Project(tmp_path / "project")


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("net", "/ self.temperature", "* self.temperature", "source of Net.forward (net.py)"),
        ("net", "self.calls += 1", "self.calls += 1  # again", "source of Net.forward (net.py)"),
        ("net", "MEAN = 0.5", "MEAN = 0.4", "value of MEAN (net.py)"),
        ("net", "np.arange(4.0)", "np.arange(4.0) + 1", "value of WEIGHTS (net.py)"),
        ("net", "Scale(2)", "Scale(3)", "transform"),
        ("net", "high=9.0", "high=8.0", "transform"),
        ("net", "low=0.0", "low=0.1", "source of clip (net.py); value of defaults in clip (net.py); transform"),
        ("net", "gain = 1.5", "gain = 1.6", "value of gain in build.<locals>.transform (net.py); transform"),
        ("net", "/ gain -", "/ gain +", "source of build.<locals>.transform (net.py)"),
        ("net", "x * self.by", "x + self.by", "source of Scale.__call__ (net.py)"),
        (
            "net",
            "x.relu()",
            "x.abs()",
            "source of Net.__init__ (net.py); source of Net.__init__.<locals>.<lambda> (net.py); attribute act of Net",
        ),
        (
            "net",
            "temperature = 2.0",
            "temperature = 2",
            "source of Net.__init__ (net.py); attribute temperature of Net",
        ),
        ("net", '{"b": 1}', '{"b": 2}', "source of Net.__init__ (net.py); attribute order of Net"),
        ("net", "torch.ones(4)", "torch.zeros(4)", "source of Net.__init__ (net.py); attribute shift of Net"),
        ("base", "x * self.factor", "x + self.factor", "source of Base.blend (base.py)"),
        ("base", "factor = 3", "factor = 4", "attribute factor of Net"),
        ("helper", "x - OFFSET", "x + OFFSET", "source of shift (helper.py)"),
        ("helper", "0.25", "0.5", "value of OFFSET (helper.py)"),
        ("helper", "[1, 2]", "[2, 1]", "value of TABLE (helper.py)"),
        ("deep", "x * 2", "x * 3", "source of sharpen (deep.py)"),
    ],
)
def test_an_edit_is_found_and_named(project: Project, file: str, old: str, new: str, named: str) -> None:
    before = project.code()
    project.edit(file, old, new)
    assert "; ".join(differences(before, project.code(), set())) == named


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("helper", "return x\n", "return -x\n"),  # of a function that nothing calls
        ("net", "import functools\n", "import os\nimport functools\n# a comment\n"),
        ("net", "import helper\nfrom base import Base\n", "from base import Base\nimport helper\n"),
        ("net", "COUNT = 0", "COUNT = 7"),
        ("base", "import torch\n", "\n\nimport torch\nUNUSED = 3\n"),
    ],
)
def test_what_does_not_matter_is_no_difference(project: Project, file: str, old: str, new: str) -> None:
    before = project.code()
    project.edit(file, old, new)
    assert project.code() == before


def test_the_same_in_another_process_and_another_directory(project: Project, tmp_path: Path) -> None:
    here = project.code()
    there = Project(tmp_path / "elsewhere")
    (there.folder / "net.py").rename(there.folder / "moved.py")
    program = f"""
import sys, json, torch
sys.path[:0] = [{str(Path(__file__).parents[2])!r}, {str(there.folder)!r}]
import deep, random, pickle
from mcscore.scorer.model_spec import load_model
from mcscore.scorer.identity import identity_of, fingerprint
torch.manual_seed(0)
loaded = load_model("moved.py:build")
print(json.dumps([dict(identity_of(loaded.module, loaded.transform).code), fingerprint(loaded.module)]))
"""
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=there.folder, capture_output=True, text=True, check=True
    ).stdout
    code, print_ = json.loads(told)
    assert differences(here, code, set()) == []
    assert print_ == fingerprint(project.load()[0])


def test_calls_and_caches_of_a_forward_pass_are_no_identity(project: Project) -> None:
    model, transform = project.load()
    before = identity_of(model, transform)
    model.calls, model.cache = 57, torch.ones(3)
    assert identity_of(model, transform) == before


def scored(model: nn.Module, transform: Callable[..., Any] | None = None) -> Scorer:
    scorer = Scorer(model, passes=4, transform=transform)
    scorer(torch.rand(5, 4))
    return scorer


class Counting(nn.Module):
    """Counts where the guard does not put it back, and where names do not tell."""

    class Stats:
        calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 3))
        self.stats, self.log, self.scale = {"in": {"calls": 0}}, [[]], 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.stats["in"]["calls"] += 1
        self.log[0].append(len(x))
        return self.net(x) * self.scale


def test_what_scoring_itself_changes_is_found_by_trying_and_told() -> None:
    model = Counting()
    fresh = Scorer(model).describe()["model"]
    assert {"attribute stats of Counting", "attribute log of Counting"} <= fresh["code"].keys()
    scorer = scored(model)
    told = scorer.describe()["model"]
    assert told["changing"] == ["attribute log of Counting", "attribute stats of Counting"]
    assert "attribute stats of Counting, which scoring changes" in told["unseen"]
    scorer(torch.rand(5, 4))
    assert scorer.describe()["model"] == told
    model.scale = 2.0
    assert differences(told["code"], scorer.describe()["model"]["code"], set()) == ["attribute scale of Counting"]


def test_a_patched_method_and_a_hook_are_seen() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 3))
    seen = [identity_of(model, None).code]
    handle = model[0].register_forward_hook(lambda _m, _i, out: out * 2)
    seen.append(identity_of(model, None).code)
    handle.remove()
    assert identity_of(model, None).code == seen[0]
    model.forward = functools.partial(lambda self, x: self[2](self[1](self[0](x))) * 3, model)
    seen.append(identity_of(model, None).code)
    assert seen[1].keys() - seen[0].keys() == {
        "hooks of Linear",
        "source of test_a_patched_method_and_a_hook_are_seen.<locals>.<lambda>",
    }
    assert "attribute forward of Sequential" in seen[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Linear, "forward", lambda self, x: nn.functional.linear(x, -self.weight, self.bias))
        assert len(identity_of(model, None).code) > len(seen[2]) - 1
        assert identity_of(model, None).code != seen[2]


def test_code_without_source_is_compared_by_its_bytecode_and_that_is_told() -> None:
    def made(text: str) -> Callable[..., Any]:
        names: dict[str, Any] = {}
        exec(compile(text, "<stdin>", "exec"), names)
        return names["f"]

    net = nn.Linear(2, 2)
    first, same, other = (made(text) for text in ("f = lambda x: x / 2", "f = lambda x: x / 2", "f = lambda x: x / 3"))
    assert identity_of(net, first) == identity_of(net, same)
    assert identity_of(net, first).code != identity_of(net, other).code
    assert identity_of(net, first).unseen == ("source of <lambda> is compared by its bytecode (it has no source text)",)


def test_a_file_that_was_edited_after_it_was_imported_is_not_taken_for_what_runs(project: Project) -> None:
    model, transform = project.load()
    project.edit("net", "/ gain -", "/ gain +")
    project.edit("net", "/ self.temperature", "* self.temperature")
    told = identity_of(model, transform).unseen
    assert any("build.<locals>.transform is compared by its bytecode (net.py holds other text" in text for text in told)


def test_what_cannot_be_seen_is_told(project: Project) -> None:
    class Locked:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            with self.lock:
                return x

    assert identity_of(nn.Linear(2, 2), Locked()).unseen == ("transform (a _thread.lock)",)


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3)
        self.register_buffer("scale", torch.ones(3), persistent=False)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:  # as adapters do: only what is trained
        return {}


def test_the_fingerprint_covers_tensors_that_a_state_dict_leaves_out() -> None:
    model = Stateful()
    seen = [fingerprint(model)]
    model.scale.data[0] = 2  # counts no version
    seen.append(fingerprint(model))
    model.net.weight.data[0, 0] = 5
    seen.append(fingerprint(model))
    assert len(set(seen)) == 3


@pytest.mark.filterwarnings("ignore")
def test_the_fingerprint_covers_packed_weights_of_quantized_layers() -> None:
    def quantized(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 3))
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)

    assert fingerprint(quantized(0)) == fingerprint(quantized(0))
    assert fingerprint(quantized(0)) != fingerprint(quantized(1))
    held = [nn.Identity(), quantized(0)]  # as a plain list hides it from state_dict

    def transform(x: torch.Tensor) -> torch.Tensor:
        return held[1](x)

    before = identity_of(nn.Linear(2, 2), transform).code
    held[1] = quantized(1)
    changed = differences(before, identity_of(nn.Linear(2, 2), transform).code, set())
    assert any(name.startswith("value of held in test_the_fingerprint_covers_packed_weights") for name in changed)
