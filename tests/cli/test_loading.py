"""A model from FILE.py:NAME and its weights: what loads, and how what does not is told."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from mcscore.loading import ModelError, load_model, read_weights

SOURCE = """
    import neighbour_of_the_model
    import torch
    from torch import nn

    def build():
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

    def with_transform():
        return build(), lambda items: items.float() - 1

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
    (tmp_path / "neighbour_of_the_model.py").write_text("")
    (tmp_path / "broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mlp", "neighbour_of_the_model"):
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
        ("mlp.py:bild", "has no 'bild'; it defines build, with_transform, Tied, needs, pair, nothing and 1 more"),
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


def test_weights_saved_from_a_wrapper_are_recognised(folder: Path) -> None:
    state = _weights(load_model("mlp.py:build").module, 1.0)
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, folder / "ddp.pt")
    with pytest.raises(ModelError, match="without the DataParallel wrapper"):
        load_model("mlp.py:build", folder / "ddp.pt")


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import sys; sys.trapped = True",))


def test_code_in_a_pt_file_is_not_run(folder: Path) -> None:
    torch.save({"weight": _Trap()}, folder / "trap.pt")
    with pytest.raises(ModelError, match=r"could run code when read; save the tensors alone"):
        read_weights(folder / "trap.pt")
    assert not hasattr(sys, "trapped")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent.pt", None, "no such weights file"),
        ("w.bin", b"x", "must be .safetensors, .pt or .pth, not '.bin'"),
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


def test_checkpoint_with_more_than_a_state_dict_is_told_apart(folder: Path) -> None:
    state = _weights(load_model("mlp.py:build").module, 1.0)
    torch.save({"epoch": 3, "state_dict": state}, folder / "checkpoint.pt")
    with pytest.raises(ModelError, match=r"other things beside tensors \(epoch, state_dict\)"):
        read_weights(folder / "checkpoint.pt")
    torch.save([1, 2], folder / "list.pt")
    with pytest.raises(ModelError, match="holds a list, not a state dict"):
        read_weights(folder / "list.pt")
