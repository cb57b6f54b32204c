"""Weights as training tools leave them: hyperparameters beside the tensors, several files, folders, wrappers inside and outside."""

from __future__ import annotations

import argparse
import enum
import functools
import json
import pathlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mcscore.errors import ModelError
from mcscore.scorer.checkpoint import load_weights
from mcscore.scorer.weights_file import Unread, read_weights, weights_file


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.drop(self.stem(x)))
        return out


class Wrapped(nn.Module):
    """As the documentation has it for models that return an object."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Net()


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(7)
    return dict(Net().state_dict())


def told_of(module: nn.Module, path: Path) -> str | None:
    if path.suffix == ".json" or not path.is_file():
        return load_weights(module, weights_file(path))
    with pytest.warns(UserWarning, match="took the tensors"):
        return load_weights(module, path)


def same(module: nn.Module, state: dict[str, Tensor], prefix: str = "") -> bool:
    own = module.state_dict()
    return all(torch.equal(own[f"{prefix}{name}"], tensor) for name, tensor in state.items())


class Settings(dict[str, Any]):
    """A dict with attributes, as many configuration libraries have it."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.frozen = True


class Mode(enum.Enum):
    FAST = 1


class Steps(list[int]):
    pass


def test_hyperparameters_of_any_class_are_left_out(tmp_path: Path, state: dict[str, Tensor]) -> None:
    by_default: defaultdict[str, list[int]] = defaultdict(list)
    by_default["a"].append(1)
    hyper = {
        "args": argparse.Namespace(lr=0.1, inner=argparse.Namespace(path=pathlib.Path("/x"))),
        "optimizer": functools.partial(torch.optim.Adam, lr=1e-3),
        "loss": nn.CrossEntropyLoss(weight=torch.ones(2)),
        "settings": Settings(a=1, b=Settings(c=2)),
        "steps": Steps([1, 2]),
        "mode": Mode.FAST,
        "by_default": by_default,
    }
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": hyper,
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
    }
    torch.save(content, tmp_path / "last.ckpt")
    made = Net()
    assert told_of(made, tmp_path / "last.ckpt") == "['state_dict'] without the prefix 'model.'"
    assert same(made, state)
    found = read_weights(tmp_path / "last.ckpt")["hyper_parameters"]
    assert isinstance(found["args"], Unread)
    assert found["args"].what == "argparse.Namespace"
    assert (found["settings"], found["steps"]) == (OrderedDict(a=1, b=OrderedDict(c=2)), [1, 2])


def test_a_whole_module_is_named_and_not_built(tmp_path: Path) -> None:
    torch.save(Net(), tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"holds a whole .*Net, which cannot be built without running code; save"):
        load_weights(Net(), tmp_path / "net.pt")
    torch.save({"epoch": 1, "model": Net()}, tmp_path / "best.pt")
    with pytest.raises(ModelError, match=r"'epoch', 'model' \(an object of .*Net, which is not built\)"):
        load_weights(Net(), tmp_path / "best.pt")


class Compiled(nn.Module):
    """Names tensors as torch.compile's wrapper does, whose import takes 20 s."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self._orig_mod = inner


def compiled_parts(module: Net) -> None:
    module.stem[0] = Compiled(module.stem[0])


def averaged(module: Net) -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(module)


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (Compiled, "without the prefix '_orig_mod.'"),
        (lambda net: Compiled(nn.ModuleDict({"module": net})), "without the prefix '_orig_mod.module.'"),
        (averaged, "without the prefix 'module.'"),
        (lambda net: compiled_parts(net) or net, "without '_orig_mod' in their names"),
        (
            lambda net: compiled_parts(net) or nn.ModuleDict({"module": net}),
            "without the prefix 'module.' without '_orig_mod' in their names",
        ),
    ],
)
def test_wrappers_of_the_trained_model_are_taken_off(
    tmp_path: Path, state: dict[str, Tensor], wrap: Callable[[Net], Any], told: str
) -> None:
    trained = Net()
    trained.load_state_dict(state)
    torch.save(wrap(trained).state_dict(), tmp_path / "w.pt")
    made = Net()
    assert told_of(made, tmp_path / "w.pt") == told
    assert same(made, state)


def test_a_model_that_is_built_compiled_takes_plain_weights(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    made = Compiled(Net())
    assert load_weights(made, tmp_path / "w.safetensors") is None
    assert same(made, state, "_orig_mod.")


def test_a_model_around_another_takes_the_weights_of_that(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "w.pth")
    made = Wrapped()
    told = "['state_dict'] without the prefix 'module.' as those of the model's 'model'"
    assert told_of(made, tmp_path / "w.pth") == told
    assert same(made, state, "model.")


# -- folders and several files -----------------------------------------------------------------------------------------


def split(folder: Path, state: dict[str, Tensor], stem: str, suffix: str) -> Path:
    """As save_pretrained with a max_shard_size."""
    names, parts = list(state), {}
    for i, held in enumerate((names[:4], names[4:]), 1):
        file = f"{stem}-{i:05d}-of-00002{suffix}"
        tensors = {name: state[name] for name in held}
        save_file(tensors, folder / file) if suffix == ".safetensors" else torch.save(tensors, folder / file)
        parts |= dict.fromkeys(held, file)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": parts}))
    return index


@pytest.fixture(params=[("model", ".safetensors"), ("pytorch_model", ".bin")])
def index(request: pytest.FixtureRequest, tmp_path: Path, state: dict[str, Tensor]) -> Iterator[Path]:
    return split(tmp_path, state, *request.param)  # type: ignore[return-value]


def test_weights_in_parts_load_by_their_index_or_folder(index: Path, state: dict[str, Tensor]) -> None:
    (index.parent / "config.json").write_text("{}")
    for given in (index, index.parent):
        made = Net()
        assert told_of(made, given) is None
        assert same(made, state)
    with pytest.raises(ModelError, match=rf"is one part of several: give {index.name}"):
        load_weights(Net(), next(index.parent.glob("*-00001-of-00002*")))


def test_an_index_that_does_not_hold_is_told(index: Path) -> None:
    whole = json.loads(index.read_text())
    part = next(index.parent.glob("*-00002-of-00002*"))

    def says(weight_map: Any, message: str) -> None:
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ModelError, match=message):
            read_weights(index)

    says({**whole["weight_map"], "more.weight": part.name}, "its parts do not hold more.weight")
    says({"a": "../x.bin"}, r"names the file '\.\./x\.bin'; a name in the same folder is needed")
    says([1], "is no index of weights")
    part.unlink()
    says(whole["weight_map"], rf"names {part.name}, which is not beside it: 2 parts are needed")


def test_a_folder_means_what_save_pretrained_wrote_or_names_its_files(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(
        ModelError, match=r"is a folder without model\.safetensors or pytorch_model\.bin; it holds none"
    ):
        weights_file(tmp_path)
    for name in ("last.ckpt", "epoch=3.ckpt"):
        torch.save(state, tmp_path / name)
    with pytest.raises(ModelError, match=r"give one of its files: epoch=3\.ckpt, last\.ckpt"):
        weights_file(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert weights_file(tmp_path).name == "pytorch_model.bin"
    save_file(state, tmp_path / "model.safetensors")
    assert weights_file(tmp_path).name == "model.safetensors", "as from_pretrained"
