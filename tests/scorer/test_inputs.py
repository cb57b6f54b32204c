"""Where a Scorer is called, and what it is given: the same scores in every mode of PyTorch, or an error that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mcscore import Execution, Scorer
from mcscore.cli.model import grouped
from mcscore.errors import OutputError
from mcscore.scorer.inputs import require_one_device

from ..montecarlo.zoo import ZOO


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).eval()


def scored(model: nn.Module, x: Any, **settings: Any) -> tuple[dict[str, Tensor], str]:
    scorer = Scorer(model, 8, **grouped(**settings))
    return scorer(x, np.arange(len(x))), scorer.describe()["plan"]["path"]


@pytest.mark.parametrize("name", ["mlp", "resnet-blocks", "vit", "lstm", "stochastic-depth", "branching"])
def test_inference_mode_gives_the_same_path_and_bits(name: str) -> None:
    make, data = ZOO[name]
    torch.manual_seed(0)
    model, x = make().eval(), data(9)
    expected, path = scored(model, x)
    with torch.inference_mode():
        inside, path_inside = scored(model, x.clone(), transform=lambda v: v * 1)
        embedding = Scorer(model).embed(x.clone()) if name == "mlp" else None
    assert path_inside == path
    for key in expected:
        assert torch.equal(inside[key], expected[key])
        assert not inside[key].is_inference()
    if embedding is not None:
        np.testing.assert_array_equal(embedding, Scorer(model).embed(x))


class FewOperators(TorchDispatchMode):
    """Of uint16 a GPU has views and copies alone, and a CPU more: those are refused here, too."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator.overloadpacket.__name__
        of_uint16 = any(isinstance(arg, Tensor) and arg.dtype == torch.uint16 for arg in args)
        if of_uint16 and name not in ("view", "slice", "_to_copy", "detach", "alias", "select", "expand", "clone"):
            raise NotImplementedError(f"{name} of uint16")
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("deterministic", [False, True])
def test_items_of_16_bits_need_no_operator_that_a_gpu_lacks(deterministic: bool) -> None:
    x = torch.randint(0, 65536, (11, 6), dtype=torch.int32).to(torch.uint16)
    model, execution = small(), Execution(deterministic=deterministic)
    expected = Scorer(model, 8, execution=execution)(x.to(torch.float32) / 65535)
    with FewOperators():
        found = Scorer(model, 8, execution=execution)(x)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", ["mlp", "resnet-blocks", "vit"])
def test_autocast_around_a_call_changes_nothing_and_that_is_said(name: str) -> None:
    make, data = ZOO[name]
    torch.manual_seed(0)
    model, x = make().eval(), data(9)
    expected, path = scored(model, x)
    said = pytest.warns(UserWarning, match="autocast on cpu is switched off.*dtype='bfloat16'")
    with torch.autocast("cpu"):
        with said:
            inside, path_inside = scored(model, x)
        assert torch.is_autocast_enabled("cpu")
    assert path_inside == path
    assert all(torch.equal(inside[key], expected[key]) for key in expected)


@pytest.fixture(autouse=True)
def _say_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcscore.kernels.backends._said", set())


def test_weights_that_are_not_there_are_named() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    for settings in ({}, {"device": "cpu"}):
        with pytest.raises(ValueError, match=r"^0\.weight of Sequential is on the meta device.*to_empty"):
            Scorer(model, **grouped(**settings))
    model.to_empty(device="cpu")  # as advised
    model.load_state_dict(nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).state_dict())
    assert scored(model, torch.randn(5, 6))[0]["bald"].isfinite().all()
    lazy = nn.Sequential(nn.LazyLinear(8), nn.Dropout(0.5), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"^0\.weight of Sequential is not initialized.*run the model once"):
        Scorer(lazy)
    lazy(torch.randn(5, 6))
    assert scored(lazy, torch.randn(5, 6))[0]["bald"].isfinite().all()


def test_a_model_on_several_devices_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3).to("meta"))
    with pytest.raises(
        ValueError, match=r"Sequential is spread over devices \(0\.weight on cpu, 1\.weight on meta\).*device='cpu'"
    ):
        require_one_device(model)


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ([torch.randn(6)] * 4, TypeError, r"got list; np\.stack\(items\) or torch\.stack"),
        (torch.randn(4, 6).to_sparse(), ValueError, r"items are a sparse tensor \(torch.sparse_coo\); x\.to_dense"),
        (torch.nested.nested_tensor([torch.randn(6)] * 4), ValueError, "items are a nested tensor; pad it"),
        (torch.randn(4, 6, dtype=torch.complex64), ValueError, "items are torch.complex64.*view_as_real"),
        (np.ones((4, 6), np.complex128), ValueError, "items are torch.complex128.*view_as_real"),
        (np.array(["a"] * 4), TypeError, "items must be numbers, got an array of <U1"),
        (np.array([np.ones(1), np.ones(2)] * 2, dtype=object), TypeError, "got an array of object"),
        (np.float32(3), TypeError, "got float32"),
        (torch.tensor(3.0), ValueError, r"single value; items\[None\]"),
    ],
)
def test_items_of_other_kinds_are_named(items: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Scorer(small(), 4)(items, np.arange(4))
    if not isinstance(items, (np.ndarray, Tensor)) or items.ndim:
        with pytest.raises(error, match=message):
            Scorer(small(), 4).embed(items)


class Magnitude(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.abs())


def test_the_advice_for_complex_items_works() -> None:
    x = torch.randn(9, 3, dtype=torch.complex64)
    assert scored(nn.Sequential(nn.Flatten(), small()), x, transform=torch.view_as_real)[0]["bald"].max() > 0
    assert scored(Magnitude(), torch.cat([x, x], 1), transform=lambda x: x)[0]["bald"].max() > 0


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.arange(4.0), r"ids must be integers, got torch.float64.*ids\.astype\(np\.int64\)"),
        (np.ones(4, bool), "ids must be integers, got torch.bool"),
        (np.zeros((4, 1), int), r"ids must be a 1-d array, one id per item, got shape \(4, 1\)"),
    ],
)
def test_ids_of_other_kinds_are_named(ids: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scorer(small(), 4)(torch.randn(4, 6), ids)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int32])
def test_ids_of_every_integer_type_are_the_same_ids(dtype: type) -> None:
    x = torch.randn(4, 6)
    scorer = Scorer(small(), 4)
    assert torch.equal(scorer(x, np.arange(4, dtype=dtype))["bald"], scorer(x, np.arange(4))["bald"])


@pytest.mark.parametrize(
    ("transform", "error", "message"),
    [
        (lambda x: x[:-1], ValueError, r"transform returned \(\d+, 6\) for \d+ items: no dimension holds them"),
        (lambda x: torch.cat([x, x[:1]]), ValueError, "no dimension holds them"),
        (lambda x: x.to_sparse(), ValueError, "transform returned a sparse tensor"),
        (lambda x: torch.nested.nested_tensor(list(x)), ValueError, "transform returned a nested tensor"),
        (lambda x: x.numpy(), TypeError, "transform must return a tensor.*got ndarray"),
        (lambda x: None, TypeError, "transform must return a tensor.*got NoneType"),
    ],
)
def test_transforms_that_give_something_else_are_named(
    transform: Callable[[Tensor], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Scorer(small(), 4, transform=transform)(torch.randn(7, 6), np.arange(7))


class Ends(nn.Module):
    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.end = small(), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.net(x))


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (Tensor.to_sparse, r"Ends returned a sparse tensor.*output\.to_dense\(\)"),
        (lambda h: torch.nested.nested_tensor(list(h)), "Ends returned a nested tensor.*to_padded_tensor"),
    ],
)
def test_outputs_of_other_layouts_are_named(end: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(OutputError, match=message):
        Scorer(Ends(end), 4)(torch.randn(7, 6), np.arange(7))


def test_items_that_are_not_numbers_in_the_first_batch_cost_only_themselves() -> None:
    x, model = torch.randn(9, 6), small()
    expected = Scorer(model, 8)(x, np.arange(9))["bald"]
    x[[0, 4]] = torch.nan
    got = Scorer(model, 8)(x, np.arange(9))["bald"]
    assert got.isnan().nonzero().flatten().tolist() == [0, 4]
    good = ~got.isnan()
    torch.testing.assert_close(got[good], expected[good], rtol=0, atol=2e-6)


def test_scores_carry_no_gradients_and_leave_the_modes_as_they_were() -> None:
    with torch.inference_mode():
        scored(small(), torch.randn(5, 6))
        assert torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    weight = torch.ones(6, requires_grad=True)
    assert not any(
        v.requires_grad for v in scored(small(), torch.randn(5, 6), transform=lambda x: x * weight)[0].values()
    )
    assert torch.is_grad_enabled()
