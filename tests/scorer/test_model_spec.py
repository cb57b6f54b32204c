"""A model from FILE.py:NAME and its weights: what loads, and how what does not is told."""

from __future__ import annotations

import os
import sys
import textwrap
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from mcscore import Scorer
from mcscore.errors import ModelError
from mcscore.recipe import Pickled
from mcscore.scorer.model_spec import load_model
from mcscore.scorer.weights_file import read_weights

SOURCE = """
    import neighbor_of_the_model
    import torch
    from torch import nn

    def build():
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

    def with_transform():
        return build(), lambda items: items.float() - 1

    def normalized():
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

    def needs(width):
        return nn.Linear(width, 1)

    def pair():
        return 3, 4

    def nothing():
        pass

    def fails():
        raise OSError("no such checkpoint")

    ready = nn.Linear(1, 1)
    number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mlp.py").write_text(textwrap.dedent(SOURCE))
    (tmp_path / "neighbor_of_the_model.py").write_text("")
    (tmp_path / "broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mlp", "neighbor_of_the_model"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def _weights(model: nn.Module, value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, value) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("spec", ["mlp.py:build", "mlp:build"])
@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
def test_file_and_module_load_with_either_kind_of_weights(folder: Path, spec: str, suffix: str) -> None:
    state = _weights(load_model(spec).module, 2.0)
    path = folder / f"w.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    loaded = load_model(spec, path)
    assert all(bool((tensor == 2.0).all()) for tensor in loaded.module.state_dict().values())
    assert loaded.weights == str(path)
    assert loaded.transform is None


def test_recorded_spec_works_from_another_directory(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    spec = load_model("mlp.py:build").spec
    assert spec == f"{folder / 'mlp.py'}:build"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        assert isinstance(load_model(spec).module, nn.Module)


def test_transform_comes_along(folder: Path) -> None:
    transform = load_model("mlp.py:with_transform").transform
    assert transform is not None
    assert torch.equal(transform(torch.tensor([3], dtype=torch.uint8)), torch.tensor([2.0]))


def test_tensors_that_the_model_shares_may_be_stored_once(folder: Path) -> None:
    tied = load_model("mlp.py:Tied").module
    nn.init.constant_(tied.a.weight, 5.0)
    save_model(tied, str(folder / "tied.safetensors"))
    loaded = load_model("mlp.py:Tied", folder / "tied.safetensors").module
    assert bool((loaded.b.weight == 5.0).all())
    assert loaded.a.weight is loaded.b.weight


def test_model_file_does_not_replace_a_module_of_its_name(folder: Path) -> None:
    (folder / "torch.py").write_text((folder / "mlp.py").read_text())
    load_model(f"{folder / 'torch.py'}:build")
    assert sys.modules["torch"] is torch


def test_a_neighbor_that_another_project_has_imported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for project, width in (("one", 3), ("other", 5)):
        (tmp_path / project).mkdir()
        (tmp_path / project / "width_of_it.py").write_text(f"WIDTH = {width}\ndef width():\n    return WIDTH\n")
        text = "from torch import nn\nfrom width_of_it import width\ndef build():\n    return nn.Linear(width(), 1)\n"
        (tmp_path / project / f"{project}_net.py").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_model(f"{tmp_path}/one/one_net.py:build").module.in_features == 3
    with pytest.warns(
        UserWarning, match=r"other_net\.py has 'width_of_it' of .*/one/width_of_it\.py.* not of .*/other/"
    ):
        load_model(f"{tmp_path}/other/other_net.py:build")
    del sys.modules["width_of_it"]


def test_a_copy_takes_the_model_files_that_it_needs_and_no_others(folder: Path) -> None:
    (folder / "torch.py").write_text((folder / "mlp.py").read_text())
    renamed = load_model(f"{folder / 'torch.py'}:Tied").module
    assert Pickled.of(Scorer(renamed)).files == {"mcscore_model_torch": str(folder / "torch.py")}
    (folder / "torch.py").unlink()
    plain = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    assert Pickled.of(Scorer(plain, embedding=None)).build("cpu")(torch.ones(2, 3))["bald"].shape == (2,)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mlp.py", "not of the form FILE.py:NAME"),
        (":build", "not of the form"),
        ("absent.py:build", "absent.py: no such model file"),
        ("absent:build", "a file is named with its .py"),
        (
            "broken.py:build",
            "broken.py failed when imported: ModuleNotFoundError: No module named 'a_module_that_is_not",
        ),
        ("mlp.py:bild", "has no 'bild'; it defines build, with_transform, normalized, Tied, needs, pair and 2 more"),
        ("mlp.py:needs", "called without arguments: missing a required argument: 'width'"),
        ("mlp.py:pair", "must return an nn.Module or (nn.Module, transform), but returned a tuple (int, int)"),
        ("mlp.py:nothing", "but returned None"),
        ("mlp.py:fails", "failed when called: OSError: no such checkpoint"),
        ("mlp.py:ready", "is a ready module; name a function or class that builds it"),
        ("mlp.py:number", "is an int, not a function"),
    ],
)
def test_wrong_spec_is_explained(folder: Path, spec: str, says: str) -> None:
    with pytest.raises(ModelError, match=r"(?s).*") as caught:
        load_model(spec)
    assert says in str(caught.value)


def test_unfit_tensors_are_named_and_the_model_is_untouched(folder: Path) -> None:
    state = _weights(load_model("mlp.py:build").module, 1.0)
    state["0.weight"] = torch.ones(5, 4)
    state["0.bias"] = state["0.bias"].long()
    state["head.bias"] = state.pop("3.bias")
    torch.save(state, folder / "unfit.pt")
    with pytest.raises(ModelError) as caught:
        load_model("mlp.py:build", folder / "unfit.pt")
    text = str(caught.value)
    assert "unfit.pt does not fit Sequential; missing: 3.bias; unexpected: head.bias; mismatching: " in text
    assert "0.weight (file float32 5×4, model float32 8×4)" in text
    assert "0.bias (file int64 8, model float32 8)" in text


def _checkpoints(state: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """File name: (content, what is told of it)."""

    def behind(prefix: str) -> dict[str, Any]:
        return {f"{prefix}{name}": value for name, value in state.items()}

    lightning = {"epoch": 3, "global_step": 9, "hyper_parameters": {"lr": 0.1}, "optimizer_states": [{"state": {}}]}
    optimizer = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(8, 4)}}, "param_groups": [{"lr": 0.1}]}
    return {
        "ddp.pt": (behind("module."), "without the prefix 'module.'"),
        "compiled.pth": (behind("_orig_mod."), "without the prefix '_orig_mod.'"),
        "compiled_ddp.pt": (behind("_orig_mod.module."), "without the prefix '_orig_mod.module.'"),
        "last.ckpt": (
            {**lightning, "state_dict": {**behind("model.net."), "criterion.weight": torch.ones(3)}},
            "['state_dict'] without the prefix 'model.net.', leaving out criterion.weight",
        ),
        "checkpoint.pth.tar": (
            {"arch": "x", "best_acc1": torch.tensor(0.5), "state_dict": behind("module."), "optimizer": optimizer},
            "['state_dict'] without the prefix 'module.'",
        ),
        "best.pth": ({"model": state, "optimizer": optimizer, "epoch": 1}, "['model']"),
        "nested.pt": (
            {"ema": {"decay": 0.9, "model": behind("module.")}},
            "['ema']['model'] without the prefix 'module.'",
        ),
    }


NAMES = list(_checkpoints({}))


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_as_people_have_them_load_and_what_was_taken_is_told(folder: Path, name: str) -> None:
    content, told = _checkpoints(_weights(load_model("mlp.py:build").module, 2.0))[name]
    torch.save(content, folder / name)
    with pytest.warns(UserWarning, match="took the tensors") as caught:
        loaded = load_model("mlp.py:build", folder / name)
    assert [str(each.message) for each in caught] == [f"{folder / name}: took the tensors {told}"]
    assert loaded.part == told.partition(", leaving")[0]
    assert all(bool((tensor == 2.0).all()) for tensor in loaded.module.state_dict().values())


def test_a_state_dict_in_a_bin_file_is_taken_as_it_is(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    torch.save(_weights(load_model("mlp.py:build").module, 2.0), folder / "pytorch_model.bin")
    assert load_model("mlp.py:build", folder / "pytorch_model.bin").part is None
    assert not recwarn.list


def test_prefixed_safetensors_with_shared_tensors_load(folder: Path) -> None:
    tied = load_model("mlp.py:Tied").module
    nn.init.constant_(tied.a.weight, 5.0)
    state = {f"model.{name}": tensor for name, tensor in tied.state_dict().items() if name != "b.weight"}
    save_file(state, folder / "tied.safetensors")
    with pytest.warns(UserWarning, match="without the prefix 'model.'"):
        loaded = load_model("mlp.py:Tied", folder / "tied.safetensors").module
    assert bool((loaded.b.weight == 5.0).all())


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (
            ("state_dict", "state_dict_ema"),
            "holds 2 sets of tensors that fit Sequential: ['state_dict']; ['state_dict_ema']. Choose one: give "
            "two.pt::state_dict or two.pt::state_dict_ema",
        ),
        (
            ("model.", "model_ema."),
            "fit Sequential: without the prefix 'model.'; without the prefix 'model_ema.'. Choose one: give "
            "two.pt::model. or two.pt::model_ema.",
        ),
    ],
)
def test_which_of_two_sets_is_meant_is_asked_and_the_advice_works(
    folder: Path, keys: tuple[str, str], says: str
) -> None:
    content: dict[str, Any] = {}
    for i, key in enumerate(keys):
        state = _weights(load_model("mlp.py:build").module, float(i))
        content |= {f"{key}{name}": tensor for name, tensor in state.items()} if key.endswith(".") else {key: state}
    torch.save(content, folder / "two.pt")
    with pytest.raises(ModelError) as caught:
        load_model("mlp.py:build", folder / "two.pt")
    assert says in str(caught.value)
    for i, key in enumerate(keys):
        with pytest.warns(UserWarning, match="took the tensors"):
            loaded = load_model("mlp.py:build", f"two.pt::{key}")
        assert loaded.weights == f"{folder / 'two.pt'}::{key}", "a later command takes the same"
        assert all(bool((tensor == i).all()) for tensor in loaded.module.state_dict().values())
    with pytest.raises(ModelError, match=r"two\.pt holds no tensors under 'emma', but under "):
        load_model("mlp.py:build", "two.pt::emma")


def test_a_checkpoint_that_fits_in_no_way_is_told_with_what_it_holds(folder: Path) -> None:
    state = _weights(load_model("mlp.py:build").module, 1.0)
    state["3.weight"] = torch.ones(5, 8)
    torch.save({"epoch": 3, "state_dict": {f"model.{k}": v for k, v in state.items()}}, folder / "other.ckpt")
    with pytest.raises(ModelError) as caught:
        load_model("mlp.py:build", folder / "other.ckpt")
    text = str(caught.value)
    assert "does not fit Sequential; mismatching: 3.weight (file float32 5×8, model float32 3×8)" in text
    assert "closest of all was ['state_dict'] without the prefix 'model.'" in text
    assert "the file holds 'epoch', 'state_dict' (a dict of 4 tensors)" in text
    torch.save({"epoch": 3, "shadow": [torch.ones(3)]}, folder / "none.pt")
    with pytest.raises(ModelError, match=r"holds no tensors by name, but 'epoch', 'shadow'; save the tensors alone"):
        load_model("mlp.py:build", folder / "none.pt")


def test_half_of_the_layers_of_a_model_is_not_the_model(folder: Path) -> None:
    state = _weights(load_model("mlp.py:build").module, 1.0)
    del state["3.bias"]
    torch.save({f"model.{name}": tensor for name, tensor in state.items()}, folder / "half.pt")
    with pytest.raises(ModelError, match=r"missing: 3\.bias"):
        load_model("mlp.py:build", folder / "half.pt")


def test_versions_of_layers_come_along_with_a_prefix(folder: Path) -> None:
    """BatchNorm before version 2 had no num_batches_tracked: PyTorch fills it in by the version in the file."""

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = load_model("mlp.py:normalized").module

    state = Wrapper().state_dict()
    assert isinstance(state, OrderedDict)
    torch.save(state, folder / "new.pt")
    del state["model.1.num_batches_tracked"]
    torch.save(state, folder / "lacks.pt")
    with pytest.raises(ModelError, match=r"missing: 1\.num_batches_tracked"):
        load_model("mlp.py:normalized", folder / "lacks.pt")
    state._metadata["model.1"]["version"] = 1  # type: ignore[attr-defined]
    torch.save(state, folder / "old.pt")
    for name in ("new.pt", "old.pt"):
        with pytest.warns(UserWarning, match="without the prefix 'model.'"):
            load_model("mlp.py:normalized", folder / name)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import sys; sys.trapped = True",))


def test_code_in_a_pt_file_is_not_run(folder: Path) -> None:
    torch.save({"weight": _Trap()}, folder / "trap.pt")
    with pytest.raises(
        ModelError, match=r"but 'weight' \(an object of builtins.exec, which is not built\); save the tensors"
    ):
        load_model("mlp.py:build", folder / "trap.pt")
    assert not hasattr(sys, "trapped")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent.pt", None, "no such weights file"),
        ("w.onnx", b"x", "must be .safetensors, .pt, .pth, .ckpt, .bin, .tar or .index.json, not '.onnx'"),
        ("w", b"x", "not 'a file without suffix'"),
        ("w.safetensors", b"hello" * 9, "not a readable safetensors file"),
        ("w.pt", b"", "not a readable torch file"),
        ("w.pt", b"hello" * 50, "not a readable torch file"),
    ],
)
def test_unreadable_weights_are_told_by_path(folder: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_weights(folder / name)
    assert str(folder / name) in str(caught.value)
    assert says in str(caught.value)


def test_a_file_without_names_is_told(folder: Path) -> None:
    torch.save([1, 2], folder / "list.pt")
    with pytest.raises(ModelError, match="holds a list, not a state dict"):
        read_weights(folder / "list.pt")


class _System:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("false",)


def test_functions_that_cannot_be_left_out_are_named(folder: Path) -> None:
    """PyTorch reads nothing of the modules os and sys, whatever is allowed."""
    torch.save({"state_dict": {}, "args": _System()}, folder / "args.ckpt")
    with pytest.raises(ModelError, match=r"holds more than tensors \(posix.system\).*save the tensors alone"):
        read_weights(folder / "args.ckpt")
