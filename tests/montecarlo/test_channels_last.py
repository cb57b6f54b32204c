"""Images in channels-last format stay in it behind dropout, with the same masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcscore import Execution, Scorer
from mcscore.kernels.dropout import drop, dropout, inverted
from mcscore.masks import MaskSpec, rate

LAST = torch.channels_last
RANKS = {"element": None, "channel": 1}  # of MaskSpec


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", RANKS)
@pytest.mark.parametrize("p", [0.5, 0.3, 0.1])
@pytest.mark.parametrize("copies", [1, 3])
def test_values_and_masks_are_those_of_the_usual_format(kind: str, p: float, copies: int) -> None:
    x = images(copies, 4, 5, 3, 7)
    masks = MaskSpec(11, 2, torch.arange(3), torch.tensor([5, 2, 2**40, 0]), rate(p), RANKS[kind])
    last = x.flatten(0, 1).contiguous(memory_format=LAST).unflatten(0, (copies, 4))
    ours, expected = (drop(given, masks, inverted(p), copies=copies, axis=0) for given in (last, x))
    assert torch.equal(ours, expected)
    assert ours.flatten(0, 1).is_contiguous(memory_format=LAST)
    assert expected.is_contiguous()
    assert (ours == 0).any()


@pytest.mark.parametrize("kind", RANKS)
def test_one_pass_and_all_passes_under_vmap_keep_the_format(kind: str) -> None:
    x, ids = images(4, 5, 3, 7), torch.tensor([5, 2, 9, 0])
    last, rank = x.contiguous(memory_format=LAST), RANKS[kind] or 3
    arguments = ids, 11, 2, 0.3, rank, 0, inverted(0.3)
    one = dropout(last, torch.tensor(1), *arguments)
    assert one.is_contiguous(memory_format=LAST)
    assert torch.equal(one, dropout(x, torch.tensor(1), *arguments))
    every = torch.vmap(lambda index: dropout(last, index, *arguments))(torch.arange(3))
    assert every.flatten(0, 1).is_contiguous(memory_format=LAST)
    assert torch.equal(every[1], one)
    torch.library.opcheck(dropout, (last, torch.tensor(1), *arguments), test_utils=("test_schema", "test_faketensor"))


class Net(nn.Module):
    def __init__(self, site: nn.Module, inplace_relu: bool) -> None:
        super().__init__()
        self.site, self.relu = site, nn.ReLU(inplace_relu)
        self.first, self.second, self.third = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 2), nn.Conv2d(5, 4, 2)
        self.seen: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.site(self.relu(self.first(x)))
        SEEN.append(physical(x))
        x = F.dropout(self.relu(self.second(x)), 0.2)
        SEEN.append(physical(x))
        return self.third(x).mean((2, 3))


SEEN: list[bool] = []


def physical(x: torch.Tensor) -> bool:
    """Whether the values of x, of all passes under vmap, lie in channels-last format."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.flatten(0, -4).is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("path", ["vmap", "fork", "repeat", "loop"])
@pytest.mark.parametrize(
    "site", [nn.Dropout2d(0.3), nn.Dropout(0.3), nn.Dropout2d(0.3, inplace=True), nn.AlphaDropout(0.3)], ids=str
)
def test_every_convolution_gets_the_format_and_scores_stay_the_same(path: str, site: nn.Module) -> None:
    torch.manual_seed(0)
    model, x, ids = Net(site, inplace_relu=path == "loop").eval(), images(9, 3, 8, 7), np.arange(9) * 5
    last, usual = (Scorer(model, 6, execution=Execution(channels_last=channels)) for channels in (True, False))
    plan = {**usual.prepare(x, ids), "path": path, "passes": 1 if path == "loop" else 3, "items": 4}
    for scorer in (last, usual):
        scorer.prepare(x, ids, plan=plan)
    SEEN.clear()
    got = last(x, ids)
    assert len(SEEN) > 4
    assert all(SEEN)
    expected = usual(x, ids)
    assert not SEEN[-1]
    for score in ("bald", "entropy"):
        torch.testing.assert_close(got[score], expected[score], rtol=1e-4, atol=2e-6)
