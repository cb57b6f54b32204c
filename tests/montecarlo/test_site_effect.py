"""A site must fire in every pass and change the output; one that does not is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mcscore.errors import SiteError
from mcscore.montecarlo import Passes
from mcscore.montecarlo.checks import require_different_passes, require_effect
from mcscore.montecarlo.discovery import discover

from .running import IDS, prepared, run
from .zoo import ZOO


class Skips(nn.Module):
    """Its dropout is left out for large inputs: a quiet zero, if nobody looked."""

    def __init__(self):
        super().__init__()
        self.a, self.drop = nn.Linear(4, 3), nn.Dropout(0.5)

    def forward(self, x):
        h = self.a(x)
        return self.drop(h) if x.shape[0] < 4 else h


def test_a_site_that_does_not_fire_is_an_error():
    model, x = Skips(), torch.randn(4, 4)
    passes = Passes(model, discover(model, x[:2], x[:3]), seed=0, shared=False)
    with pytest.raises(SiteError, match=r"site 0 \(drop: dropout, p=0.5\).*never fired"):
        run(passes, x, IDS, 2, "loop")


def test_passes_that_do_not_differ_are_an_error():
    class Useless(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.drop = nn.Linear(4, 3), nn.Dropout(0.5)

        def forward(self, x):
            return self.a(x) + 0.0 * self.drop(x).sum(1, keepdim=True)

    model, x = Useless(), torch.randn(4, 4)
    passes = Passes(model, discover(model, x[:2], x[:3]), seed=0, shared=False)
    with pytest.raises(SiteError, match=r"same output although these sites fired: site 0 \(drop"):
        require_different_passes(passes, run(passes, x, IDS, 9, "vmap"), x)


class DeadBranch(nn.Module):
    """Two sites; what the second drops is not used."""

    def __init__(self, factor=0.0):
        super().__init__()
        self.a, self.first, self.second, self.factor = nn.Linear(4, 8), nn.Dropout(0.5), nn.Dropout(0.25), factor

    def forward(self, x):
        h = self.a(x)
        return self.first(h) + self.factor * self.second(h)


def test_a_site_that_does_not_reach_the_output_is_named():
    x = torch.randn(3, 4)
    dead = DeadBranch()
    passes = Passes(dead, discover(dead, x[:2], x[:3]), seed=0, shared=False)
    with pytest.warns(
        UserWarning, match=r"^site 1 \(second: dropout, p=0.25\) of DeadBranch: the output .* does not change"
    ):
        inert = require_effect(passes, x)
    assert inert == {"second"}
    alive = DeadBranch(1e-3)
    passes = Passes(alive, discover(alive, x[:2], x[:3]), seed=0, shared=False)
    assert not require_effect(passes, x)


def test_sites_of_which_none_reaches_the_output_are_an_error():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)), torch.rand(3, 4)
    with torch.no_grad():
        model[0].weight.fill_(-1.0)
        model[0].bias.zero_()  # all zero behind the ReLU
    with pytest.raises(SiteError, match=r"site 0 \(2: dropout, p=0.5\) of Sequential: the output .* does not change"):
        require_effect(Passes(model, discover(model, x[:2], x[:3]), seed=0, shared=False), x)


@pytest.mark.parametrize("name", ZOO)
def test_every_site_of_every_model_reaches_its_output(name):
    _, x, passes = prepared(name)
    assert not require_effect(passes, x[:3])


class AuxiliaryHead(nn.Module):
    """GoogLeNet's habit: a second head that only training has."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.aux = nn.Linear(4, 8), nn.Linear(8, 3), nn.Sequential(nn.Dropout(0.7), nn.Linear(8, 3))
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        h = torch.relu(self.a(x))
        y = self.b(self.drop(h))
        return (y, self.aux(h)) if self.training else y


def test_heads_that_only_training_has_are_left_out_by_choice():
    torch.manual_seed(0)
    model, x = AuxiliaryHead().eval(), torch.randn(4, 4)
    with pytest.raises(SiteError, match=r"aux.0 \(dropout, p=0.7\). If only training has them .*sites="):
        discover(model, x[:2], x[:3])
    found = discover(model, x[:2], x[:3], chosen=["drop"])
    assert [site.name for site in found.sites if site.active] == ["drop"]
    assert run(Passes(model, found, seed=0, shared=False), x, IDS, 9, "vmap").std(0).max() > 0
