"""Hostile surroundings: many sites, inference mode, autocast, devices and layouts that hold no plain numbers."""

from __future__ import annotations

import contextlib
import copy
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import mcscore
from mcscore.cli.model import grouped
from mcscore.errors import SiteError

from .hostile.harness import IDS, contents, distance, generators, vectors

NAMES = ("entropy", "bald", "mean_std")


def scored(net, x, **options):
    scorer = mcscore.Scorer(net, 12, NAMES, **grouped(**options))
    return scorer, scorer(x, IDS[: len(x)])


@contextlib.contextmanager
def scores_or_says(pattern):
    """Either the block runs through, or it is refused with a message that matches."""
    try:
        yield
    except ValueError as error:
        if not re.search(pattern, str(error)):
            raise


class Counted(nn.Module):
    """Counts forward passes of itself and of all its copies."""

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.1)) for _ in range(sites))
        self.b = nn.Linear(8, 3)

    def forward(self, x):
        forwards[0] += 1
        for layer in self.layers:
            x = x + 0.1 * layer(x)
        return self.b(x)


forwards = [0]


@pytest.mark.parametrize("sites", [3, 200])
def test_preparing_takes_few_forward_passes_however_many_sites(sites):
    scorer = mcscore.Scorer(Counted(sites).eval(), 12, NAMES)
    x = vectors(6)
    forwards[0] = 0
    scorer.prepare(x, IDS)
    assert forwards[0] <= 60, forwards[0]
    assert len(scorer.describe()["sites"]) == sites


def plain_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 3)
    )


def test_inference_mode_around_the_scorer_changes_neither_path_nor_scores():
    net, x = plain_model(), vectors(6)
    outside, truth = scored(net, x)
    with torch.inference_mode():
        inside, ours = scored(net, x)
    assert inside.describe()["plan"]["path"] == outside.describe()["plan"]["path"]
    assert distance(ours, truth) < 1e-5


def test_a_model_made_in_inference_mode_is_scored_or_refused():
    with torch.inference_mode():
        net = plain_model()
    _, truth = scored(plain_model(), vectors(6))
    with scores_or_says("inference"):
        _, ours = scored(net, vectors(6))
        assert distance(ours, truth) < 1e-5


def test_inputs_made_in_inference_mode_are_scored():
    with torch.inference_mode():
        x = vectors(6)
    _, ours = scored(plain_model(), x)
    _, truth = scored(plain_model(), vectors(6))
    assert distance(ours, truth) < 1e-5


def test_autocast_around_the_scorer_is_scored_repeatably_or_refused():
    net, x = plain_model(), vectors(6)
    with scores_or_says("autocast"):
        with torch.autocast("cpu", torch.bfloat16):
            scorer, whole = scored(net, x)
            single = [scorer(x[i : i + 1], IDS[i : i + 1]) for i in range(6)]
        assert distance(whole, {name: torch.cat([part[name] for part in single]) for name in whole}) < 2e-2
        _, truth = scored(net, x)
        assert distance(whole, truth) < 5e-2


def test_a_model_on_the_meta_device_is_refused_by_name():
    with pytest.raises(ValueError, match="meta"):
        scored(nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5), nn.Linear(4, 3)).to("meta"), vectors(6))


def test_a_parameter_left_on_the_meta_device_is_refused_by_name():
    net = plain_model()
    net[3].weight = nn.Parameter(torch.empty(16, 16, device="meta"))
    with pytest.raises(ValueError, match=r"3\.weight|meta"):
        scored(net, vectors(6))


def test_lazy_layers_without_a_shape_are_refused_by_name():
    with pytest.raises(ValueError, match=r"(?i)lazy|uninitialized|0\b"):
        scored(nn.Sequential(nn.LazyLinear(4), nn.Dropout(0.5), nn.Linear(4, 3)), vectors(6))


@pytest.mark.parametrize("layout", ["sparse", "csr", "nested"])
def test_inputs_that_are_not_dense_are_scored_or_refused_by_name(layout):
    class Takes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.4), nn.Linear(16, 3)

        def forward(self, x):
            dense = x.to_dense() if x.layout != torch.strided else x
            dense = x.to_padded_tensor(0.0).sum(1) if x.is_nested else dense
            return self.b(self.drop(torch.tanh(self.a(dense))))

    def transform(x):
        if layout == "nested":
            return torch.nested.nested_tensor(
                [row[None].expand(1 + i % 2, -1) / (1 + i % 2) for i, row in enumerate(x)]
            )
        return x.to_sparse() if layout == "sparse" else x.to_sparse_csr()

    torch.manual_seed(0)
    net = Takes()
    with scores_or_says(f"(?i){layout}|dense"):
        _, ours = scored(net, vectors(6), transform=transform)
        _, truth = scored(net, vectors(6))
        assert distance(ours, truth) < 1e-5


class Checkpoints(nn.Module):
    """As Hugging Face: gradient checkpointing while training, which a guarded dropout forces the engine into."""

    def __init__(self, on: bool) -> None:
        super().__init__()
        self.a, self.b, self.on = nn.Linear(8, 16), nn.Linear(16, 3), on
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.3)) for _ in range(3))

    def forward(self, x):
        h = self.a(x)
        for block in self.blocks:
            h = checkpoint(block, h, use_reentrant=True) if self.on and self.training else block(h)
        return self.b(nn.functional.dropout(h, 0.2) if self.training else h)


def test_gradient_checkpointing_changes_no_score():
    """Reentrant checkpoints are autograd functions that vmap cannot enter: the passes then run by fork, which is said."""
    torch.manual_seed(0)
    off = Checkpoints(False)
    on = copy.deepcopy(off)
    on.on = True
    _, truth = scored(off, vectors(6))
    scorer_on, ours = scored(on, vectors(6))
    assert scorer_on.describe()["plan"]["path"] != "loop"
    assert distance(ours, truth) < 1e-5


def test_a_grown_graph_or_gradients_do_not_come_of_scoring():
    net, x = plain_model(), vectors(6)
    net(x).sum().backward()
    before = {name: p.grad.clone() for name, p in net.named_parameters()}
    _, ours = scored(net, x)
    assert not any(score.requires_grad for score in ours.values())
    assert all(torch.equal(p.grad, before[name]) for name, p in net.named_parameters())


def test_an_error_in_the_middle_of_training_mode_leaves_everything_as_it_was():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.4), nn.Linear(16, 3)
            self.register_buffer("mean", torch.zeros(16))
            self.scale = nn.Parameter(torch.ones(16))

        def forward(self, x):
            h = self.a(x)
            if self.training:
                self.mean.add_(h.mean(0))
                self.scale.data.mul_(0.5)
                np.random.rand()  # noqa: NPY002
                torch.rand(1)
                raise RuntimeError("targets are needed in training")
            return self.b(self.drop(h * self.scale - self.mean))

    net = Fails().train()
    net.drop.eval()
    before, state = contents(net), generators()
    with pytest.raises(SiteError, match="targets are needed"):
        scored(net, vectors(6))
    assert contents(net) == before
    assert generators() == state


@pytest.mark.parametrize("mode", ["train", "mixed"])
def test_modes_are_put_back_and_do_not_matter(mode):
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 3))
    _, truth = scored(copy.deepcopy(net).eval(), vectors(6))
    net.train()
    if mode == "mixed":
        net[1].eval()
    before = contents(net)
    _, ours = scored(net, vectors(6))
    assert contents(net) == before
    assert distance(ours, truth) < 1e-5


def swap_data(net):
    for p in net.parameters():
        p.data = p.data * 0.5


def write_data(net):
    for p in net.parameters():
        p.data.mul_(0.5)


def write_numpy(net):
    for p in net.parameters():
        p.detach().numpy()[...] *= 0.5


def copy_under_no_grad(net):
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(p * 0.5)


def load_state(net):
    net.load_state_dict({name: value * 0.5 for name, value in net.state_dict().items()})


def write_storage(net):
    for p in net.parameters():
        alias = torch.from_numpy(
            np.frombuffer(memoryview(p.detach().numpy().reshape(-1)), dtype=np.float32).copy() * 0.5
        )
        p.data.untyped_storage().copy_(alias.untyped_storage())


@pytest.mark.parametrize("write", [swap_data, write_data, write_numpy, copy_under_no_grad, load_state, write_storage])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_weights_that_change_between_calls_are_the_ones_that_count(write, dtype):
    """Averaged weights are swapped in by .data or numpy, which moves no version counter."""
    net, x = plain_model(), vectors(6)
    scorer, before = scored(net, x, dtype=dtype)
    fingerprint = scorer.fingerprint
    write(net)
    after = scorer(x, IDS)
    _, truth = scored(copy.deepcopy(net), x, dtype=dtype)
    assert distance(after, truth) < (1e-5 if dtype is None else 1e-3)
    assert distance(after, before) > 1e-2
    assert scorer.fingerprint != fingerprint


def test_a_hook_that_asks_for_gradients_of_inputs_keeps_the_path():
    """Hugging Face's enable_input_require_grads, which gradient checkpointing sets, registers such a hook."""
    net = nn.Sequential(
        nn.Linear(8, 16), nn.Dropout(0.3), nn.Tanh(), nn.Linear(16, 16), nn.Dropout(0.2), nn.Linear(16, 3)
    )
    truth = scored(net, vectors(6))[1]
    net[0].register_forward_hook(lambda _module, _inputs, output: output.requires_grad_(True))
    scorer, ours = scored(net, vectors(6))
    assert scorer.describe()["plan"]["path"] == "vmap"
    assert distance(ours, truth) == 0.0
