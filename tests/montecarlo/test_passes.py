"""Passes are what plain PyTorch dropout gives, and depend on nothing but (seed, site, pass, item)."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mcscore import masks
from mcscore.kernels.dropout import inverted
from mcscore.masks import MaskSpec
from mcscore.montecarlo import Passes, Strategy, choose_strategy
from mcscore.montecarlo.discovery import discover
from mcscore.montecarlo.passes import PATHS as ALL_PATHS

from .running import IDS, prepared, run
from .zoo import ZOO, GalCNN, LSTMClassifier

PATHS = [path for path in ALL_PATHS if path != "head"]  # any model can be asked for these


def plain_passes(model, x, T):
    """The baseline everybody writes: dropout left on, normalization in evaluation, one pass after another."""
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if hasattr(module, "running_mean"):
            module.eval()
    with torch.no_grad():
        return torch.stack([model(x.clone()) for _ in range(T)])


@pytest.mark.parametrize("name", ZOO)
def test_mean_and_variance_match_plain_pytorch(name):
    """z-tests of mean and variance of every logit, T = 1500 against T = 1500.

    The limit of 5 standard errors has a false-alarm rate of 6e-7 per statistic under normality; about 600 statistics are tested, so
    a correct engine fails once in some thousand choices of the (fixed) seeds.
    """
    T = 1500
    model, x, passes = prepared(name)
    path = choose_strategy(passes, x[:3], torch.arange(3), T)
    ours = run(passes, x[:3], IDS[:3], T, path, 500).double()
    theirs = plain_passes(model, x[:3], T).double()
    standard_error = ((ours.var(0) + theirs.var(0)) / T).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 5 * standard_error + 1e-6).all()

    def error_of_variance(samples):  # (mu_4 - sigma^4) / T
        centered = samples - samples.mean(0)
        return ((centered**4).mean(0) - centered.var(0) ** 2).clamp_min(0) / T

    standard_error = (error_of_variance(ours) + error_of_variance(theirs)).sqrt()
    assert ((ours.var(0) - theirs.var(0)).abs() <= 5 * standard_error + 1e-6).all()
    assert (ours.std(0) > 0).any()


@pytest.mark.parametrize("name", ZOO)
def test_every_path_gives_what_one_pass_at_a_time_gives(name):
    _, x, passes = prepared(name)
    truth = run(passes, x, IDS, 7, "loop")
    chosen = choose_strategy(passes, x[:3], torch.arange(3), 7)
    for path in PATHS[PATHS.index(chosen.path) :]:
        if path == "fork" and chosen.path != "fork":
            continue  # not promised: only used where it was compared
        torch.testing.assert_close(run(passes, x, IDS, 7, path), truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_a_pass_does_not_depend_on_batch_order_or_chunks(name):
    _, x, passes = prepared(name)
    path = choose_strategy(passes, x[:3], torch.arange(3), 6)
    whole = run(passes, x, IDS, 6, path)
    for chunk in (1, 2, 4):
        torch.testing.assert_close(run(passes, x, IDS, 6, path, chunk), whole, rtol=1e-4, atol=1e-5)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(run(passes, x[order], IDS[order], 6, path), whole[:, order], rtol=1e-4, atol=1e-5)
    alone = torch.cat([run(passes, x[i : i + 1], IDS[i : i + 1], 6, path) for i in range(4)], dim=1)
    torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-5)


def test_masks_are_those_of_the_specification():
    model = nn.Sequential(nn.Dropout(0.3), nn.Linear(40, 40, bias=False), nn.Dropout(0.5))
    nn.init.eye_(model[1].weight)
    x = torch.rand(4, 40) + 1
    passes = Passes(model, discover(model, x[:2], x[:3]), seed=99, shared=False)
    first = masks.keep_mask(MaskSpec(99, 0, range(6), IDS.numpy(), masks.rate(0.3)), 40)
    second = masks.keep_mask(MaskSpec(99, 1, range(6), IDS.numpy(), masks.rate(0.5)), 40)
    expected = x.numpy() * np.float32(inverted(0.3)[0]) * first * 2.0 * second
    for path in PATHS:
        np.testing.assert_allclose(run(passes, x, IDS, 6, path).numpy(), expected, rtol=1e-6)


def test_shared_masks_are_one_mask_per_pass():
    model = nn.Sequential(nn.Linear(4, 40), nn.Dropout(0.5))
    x = torch.rand(4, 4)
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(1.0)
    found = discover(model, x[:2], x[:3])
    shared = run(Passes(model, found, seed=1, shared=True), x, IDS, 5, "vmap")
    own = run(Passes(model, found, seed=1, shared=False), x, IDS, 5, "vmap")
    assert (shared == shared[:, :1]).all()
    assert not (own == own[:, :1]).all()
    expected = masks.keep_mask(MaskSpec(1, 0, range(5), [-1], masks.rate(0.5)), 40) * 2.0
    np.testing.assert_array_equal(shared[:, :1].numpy(), expected.astype(np.float32))


class Convolutions(TorchDispatchMode):
    """Counts images that go through a convolution."""

    images = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default or func is torch.ops.aten._convolution.default:
            self.images += args[0].shape[0]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("path", ["vmap", "fork", "loop"])
@pytest.mark.parametrize("chunk", [20, 6, 1])
def test_what_comes_before_the_first_site_runs_once(path, chunk):
    torch.manual_seed(0)
    model, x = GalCNN().eval(), torch.randn(5, 1, 16, 16)
    passes = Passes(model, discover(model, x[:2], x[:3]), seed=0, shared=False)
    with Convolutions() as count:
        run(passes, x, torch.arange(5), 20, path, chunk)
    assert count.images == 2 * 5  # two layers, five images, whatever T


class Residual(nn.Module):
    """A branch from before the first site is used after it, and something reads the batch size."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(6, 6), nn.Linear(6, 6), nn.Dropout(0.4)

    def forward(self, x):
        skip = self.a(x)
        parts = skip.chunk(2, dim=1)
        h = self.drop(F.relu(skip))
        return self.b(h) + skip + torch.cat(parts, 1).mul(0.5).view(x.shape[0], -1)


def test_the_tape_keeps_branches_that_are_needed_later():
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(4, 6)
    passes = Passes(model, discover(model, x[:2], x[:3]), seed=0, shared=False)
    truth = torch.cat(
        [run(passes, x, IDS, 1, "loop")]
        + [torch.cat(list(passes.chunks(x, IDS, [torch.tensor([t])], Strategy("loop")))) for t in range(1, 6)]
    )
    for path in ("vmap", "loop"):
        torch.testing.assert_close(run(passes, x, IDS, 6, path, 2), truth)


class WritesIntoItsBranch(Residual):
    def forward(self, x):
        skip = self.a(x)
        h = self.drop(F.relu(skip))
        skip.mul_(2.0)  # a replayed prefix would double it once more for every chunk
        return self.b(h) + skip


def test_work_in_place_on_a_kept_branch_is_not_repeated():
    torch.manual_seed(0)
    model, x = WritesIntoItsBranch(), torch.randn(4, 6)
    passes = Passes(model, discover(model, x[:2], x[:3]), seed=0, shared=False)
    truth = torch.cat([torch.cat(list(passes.chunks(x, IDS, [torch.tensor([t])], Strategy("loop")))) for t in range(6)])
    for path in ("vmap", "loop"):
        torch.testing.assert_close(run(passes, x, IDS, 6, path, 2), truth)


def test_the_model_and_the_random_state_stay_as_they_were():
    for name, (make, data) in ZOO.items():
        torch.manual_seed(0)
        model, x = make(), data(4)
        model.train()
        next(iter(model.children())).eval()
        modes = {n: m.training for n, m in model.named_modules()}
        state = {k: v.clone() for k, v in model.state_dict().items()}
        inputs, rng = x.clone(), torch.get_rng_state()
        passes = Passes(model, discover(model, x[:2], x[:3]), seed=0, shared=False)
        path = choose_strategy(passes, x[:3], torch.arange(3), 4)
        run(passes, x, IDS, 4, path, 2)
        assert {n: m.training for n, m in model.named_modules()} == modes, name
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()), name
        assert torch.equal(x, inputs), name
        assert torch.equal(torch.get_rng_state(), rng), name
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()), name


class Breaks(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.drop, self.broken = nn.Linear(4, 3), nn.Dropout(0.5), False

    def forward(self, x):
        if self.broken:
            raise KeyError("not today")
        return self.drop(self.a(x))


def test_an_exception_leaves_the_model_as_it_was():
    model, x = Breaks().train(), torch.randn(4, 4)
    passes = Passes(model, discover(model, x[:2], x[:3]), seed=0, shared=False)
    model.broken = True
    for path in PATHS:
        with pytest.raises(KeyError, match="not today"):
            run(passes, x, IDS, 2, path)
        assert all(m.training for m in model.modules())


def test_a_site_switched_off_drops_nothing():
    model, x, passes = prepared("gal-cnn", chosen=["drop2"])
    assert [site.active for site in passes.found.sites] == [False, True]
    with torch.no_grad():
        hidden = F.relu(model.dense1(F.max_pool2d(F.relu(model.conv2(F.relu(model.conv1(x)))), 2).flatten(1)))
        keep = masks.keep_mask(
            MaskSpec(3, 1, range(5), IDS.numpy(), masks.rate(0.5)), 24
        )  # numbered as if all sites were on
        expected = model.dense2(hidden * torch.from_numpy(keep) * 2.0)
    for path in PATHS:
        torch.testing.assert_close(run(passes, x, IDS, 5, path), expected, rtol=1e-4, atol=1e-5)


def test_recurrent_layers_equal_torch_without_dropout():
    """The layer-by-layer form computes what torch's own stack computes."""
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        torch.manual_seed(0)
        model, x = LSTMClassifier(kind).eval(), ZOO["lstm"][1](4)
        passes = Passes(model, discover(model, x[:2], x[:3]), seed=0, shared=False)
        torch.testing.assert_close(passes.deterministic(x), model(x), rtol=1e-5, atol=1e-6)


def test_attention_by_definition_equals_torch_without_dropout():
    for name in ("vit", "sdpa", "sequence-first"):
        model, x, passes = prepared(name)
        with torch.no_grad():
            torch.testing.assert_close(passes.deterministic(x), model(x), rtol=1e-4, atol=1e-5)


def test_dropped_weights_are_those_of_the_specification():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(4, 6)
    passes = Passes(model, discover(model, x[:2], x[:3], weight_p=0.25), seed=7, shared=False)

    def weights(site, layer):  # one mask per pass, for all items
        keep = masks.keep_mask(MaskSpec(7, site, range(5), [-1], masks.rate(0.25)), layer.weight.numel())
        return layer.weight.detach() * torch.from_numpy(keep.reshape(5, *layer.weight.shape)) / 0.75

    expected = torch.stack(
        [
            F.linear(F.relu(F.linear(x, first, model[0].bias)), second, model[2].bias).detach()
            for first, second in zip(weights(0, model[0]), weights(1, model[2]), strict=True)
        ]
    )
    path = choose_strategy(passes, x[:3], torch.arange(3), 5)
    assert path.path == "vmap"
    for path in ("vmap", "loop"):
        torch.testing.assert_close(run(passes, x, IDS, 5, path), expected, rtol=1e-5, atol=1e-6)


def test_another_p_is_what_the_masks_have():
    model = nn.Sequential(nn.Linear(4, 4000, bias=False), nn.Dropout(0.5))
    x = torch.rand(4, 4) + 1
    passes = Passes(model, discover(model, x[:2], x[:3], p=0.125), seed=1, shared=False)
    logits = run(passes, x, IDS, 10, "vmap")
    assert ((logits == 0).float().mean() - 0.125).abs() < 0.005
    torch.testing.assert_close(logits.mean(), model[0](x).mean().detach(), rtol=0.1, atol=0.01)


class BranchesOnDroppedValues(nn.Module):
    """Whether it doubles its output depends on the masks, so it is another model in every pass."""

    def __init__(self):
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x):
        h = self.drop(self.a(x))
        return self.b(h) * (2.0 if h.sum() > self.a(x).sum() else 1.0)


def test_a_model_that_branches_on_dropped_values_runs_one_pass_at_a_time():
    torch.manual_seed(0)
    model, x = BranchesOnDroppedValues().eval(), torch.randn(4, 4)
    passes = Passes(model, discover(model, x[:2], x[:3]), seed=0, shared=False)
    path = choose_strategy(passes, x[:3], torch.arange(3), 9)
    assert path.path == "loop"
    assert "repeat: Tensor.__bool__ in the model looks at values that masks have touched" in path.why
    logits = run(passes, x, IDS, 9, path)
    keep = torch.from_numpy(masks.keep_mask(MaskSpec(0, 0, range(9), IDS.numpy(), masks.rate(0.5)), 8))
    with torch.no_grad():
        h = model.a(x) * keep * 2.0
        factor = torch.where(h.sum((1, 2)) > model.a(x).sum(), 2.0, 1.0)
        torch.testing.assert_close(logits, model.b(h) * factor[:, None, None])
    assert len(factor.unique()) == 2


def test_all_64_bits_of_the_seed_count():
    make, data = ZOO["mlp"]
    model, x = make().eval(), data(4)
    found = discover(model, x[:2], x[:3])
    results = {}
    for seed in (0, 2**63 - 1, 2**63, 2**64 - 1):
        passes = Passes(model, found, seed=seed, shared=False)
        assert choose_strategy(passes, x[:3], torch.arange(3), 4).path == "vmap"
        results[seed] = run(passes, x, IDS, 4, "vmap")
        torch.testing.assert_close(results[seed], run(passes, x, IDS, 4, "loop"), rtol=1e-4, atol=1e-5)
    assert not any(torch.equal(results[a], results[b]) for a in results for b in results if a < b)


@pytest.mark.parametrize(
    "later", [lambda h, y: y, lambda h, y: y + h.sum(1, keepdim=True), lambda h, y: y + h.view(-1, 8)[:, :3]]
)
def test_in_place_dropout_before_a_linear_waits_too(later):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.drop, self.b = nn.Linear(4, 8), nn.Dropout(0.5, inplace=True), nn.Linear(8, 3)

        def forward(self, x):
            h = torch.tanh(self.a(x))
            return later(h, self.b(self.drop(h)))  # h is the dropped one afterward

    torch.manual_seed(0)
    model, x = InPlace().eval(), torch.randn(4, 4)
    passes = Passes(model, discover(model, x[:2], x[:3]), seed=0, shared=False)
    path = choose_strategy(passes, x[:3], torch.arange(3), 9)
    assert path.path == "vmap"
    keep = torch.from_numpy(masks.keep_mask(MaskSpec(0, 0, range(9), IDS.numpy(), masks.rate(0.5)), 8))
    with torch.no_grad():
        h = torch.tanh(model.a(x)) * keep * 2.0
        expected = torch.stack([later(h_BD, model.b(h_BD)) for h_BD in h])
    torch.testing.assert_close(run(passes, x, IDS, 9, path), expected)
