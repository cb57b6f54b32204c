"""Norms under vmap are one operation, and give what PyTorch's own give one pass at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mcscore import Scorer
from mcscore.montecarlo import Passes, Strategy, passes
from mcscore.montecarlo.choose import choose_strategy
from mcscore.montecarlo.discovery import discover

from .zoo import UNet

NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch": lambda: nn.BatchNorm2d(6),
    "batch, no weights": lambda: nn.BatchNorm2d(6, affine=False),
    "group": lambda: nn.GroupNorm(3, 6),
    "layer": lambda: nn.LayerNorm([6, 5, 5]),
    "instance": lambda: nn.InstanceNorm2d(6, affine=True),
}


def net(norm: Callable[[], nn.Module]) -> nn.Module:
    """A residual branch from before the dropout, so that no path but vmap fits."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.drop, self.norm, self.out = (
                nn.Conv2d(2, 6, 3, padding=1),
                nn.Dropout(0.4),
                norm(),
                nn.Linear(6, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.out((x + self.norm(self.drop(x))).mean((2, 3)))

    torch.manual_seed(0)
    model = Net().eval()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if "norm" in name and tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 2.0)
    return model


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("lies", [torch.contiguous_format, torch.channels_last])
def test_passes_are_those_of_a_loop(name: str, lies: torch.memory_format) -> None:
    model, x = net(NORMS[name]), torch.randn(7, 2, 5, 5).contiguous(memory_format=lies)
    driven = Passes(model, discover(model, x[:2], x[:3]), seed=3, shared=False)
    ids, t = torch.arange(7), torch.arange(4)
    ours, truth = (driven.run(x, ids, t, Strategy(path)).logits for path in ("vmap", "loop"))
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-6)


class _Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["batch", "group", "layer"])
def test_a_norm_is_one_operation(name: str) -> None:
    model, x = net(NORMS[name]), torch.randn(7, 2, 5, 5)
    driven = Passes(model, discover(model, x[:2], x[:3]), seed=3, shared=False)
    with _Names() as calls:
        driven.run(x, torch.arange(7), torch.arange(4), Strategy("vmap"))
    assert calls.names.count(f"aten.native_{name}_norm.default") == 1
    assert "aten.mul.Tensor" not in calls.names


def test_statistics_of_the_batch_are_left_to_pytorch() -> None:
    x = torch.randn(3, 4, 5)
    got = torch.vmap(lambda y: F.batch_norm(y, None, None, training=True))(x)
    assert got.shape == x.shape


def test_a_path_that_fails_is_not_chosen_for_running_one_pass_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU fork is tried before vmap, and a U-Net's skips clash with the rows of all passes."""
    monkeypatch.setattr(
        "mcscore.montecarlo.choose.paths_on", lambda _device: ("head", "fork", "vmap", "repeat", "loop")
    )
    model, x = UNet().eval(), torch.randn(3, 1, 16, 16)
    driven = Passes(model, discover(model, x[:2], x[:3]), seed=3, shared=False)
    assert choose_strategy(driven, x, torch.arange(3), 5).path == "vmap"


def test_a_gpu_tries_fork_before_vmap() -> None:
    assert passes.paths_on(torch.device("cuda")) == ("head", "fork", "vmap", "repeat", "loop")
    assert passes.paths_on(torch.device("cpu")) == passes.PATHS


def test_batch_norm_keeps_bfloat16() -> None:
    """As torch.autocast leaves it: in float32 every activation would be converted twice."""
    from mcscore.montecarlo.autocast import Autocast

    x = torch.randn(2, 6, 5, 5, dtype=torch.bfloat16)
    assert Autocast().operands(F.batch_norm, x).dtype == torch.bfloat16
    assert Scorer(net(NORMS["batch"]), passes=5)(torch.randn(4, 2, 5, 5))["bald"].isfinite().all()
