"""Sites are found whoever calls dropout, and what cannot be driven is refused by name."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcscore.errors import SiteError
from mcscore.montecarlo.discovery import discover
from mcscore.montecarlo.ops.dropout import DROPOUT_OPS

from .zoo import ZOO, Guarded, ViT


def found(model, x, **kwargs):
    return discover(model, x[:2], x[:3], **kwargs)


EXPECTED = {
    "mlp": [("net.2", "dropout", 0.3, (32,), 0), ("net.5", "dropout", 0.5, (16,), 0)],
    "gal-cnn": [("drop1", "dropout", 0.25, (4, 5, 5), 0), ("drop2", "dropout", 0.5, (24,), 0)],
    "resnet-head": [("dropout", "dropout", 0.4, (6,), 0)],
    "sdpa": [
        ("scaled_dot_product_attention", "attention dropout", 0.3, (2, 5, 5), 0),
        ("dropout", "dropout", 0.25, (5, 8), 0),
    ],
    "sequence-first": [
        ("encoder.self_attn", "attention dropout", 0.2, (2, 5, 5), 0),
        ("encoder.dropout1", "dropout", 0.2, (5, 8), 1),
        ("encoder.dropout", "dropout", 0.2, (5, 16), 1),
        ("encoder.dropout2", "dropout", 0.2, (5, 8), 1),
    ],
    "decoder": [
        ("layer.self_attn", "attention dropout", 0.2, (2, 2, 2), 0),
        ("layer.dropout1", "dropout", 0.2, (2, 8), 0),
        ("layer.multihead_attn", "attention dropout", 0.2, (2, 2, 5), 0),
        ("layer.dropout2", "dropout", 0.2, (2, 8), 0),
        ("layer.dropout", "dropout", 0.2, (2, 16), 0),
        ("layer.dropout3", "dropout", 0.2, (2, 8), 0),
    ],
    "multi-label": [("drop", "dropout", 0.3, (16,), 0)],
    "folded": [("drop", "dropout", 0.3, (4, 12), 0)],
    "lstm": [
        ("rnn", "lstm dropout", 0.3, (7, 10), 0),
        ("rnn/1", "lstm dropout", 0.3, (7, 10), 0),
        ("drop", "dropout", 0.2, (10,), 0),
    ],
    "unet": [("drop", "dropout2d", 0.4, (8, 4, 4), 0)],
    "branching": [("drop", "dropout", 0.3, (16,), 0), ("drop#2", "dropout", 0.3, (16,), 0)],
    "self-normalizing": [
        ("channel", "dropout1d", 0.25, (6, 7), 0),
        ("feature", "feature_alpha_dropout", 0.3, (6, 7), 0),
        ("alpha", "alpha_dropout", 0.2, (12,), 0),
    ],
    "volume": [("drop", "dropout3d", 0.5, (4, 4, 4, 4), 0)],
    "stochastic-depth": [
        ("path:bernoulli_", "bernoulli (bernoulli_)", pytest.approx(0.3), (1,), 0),
        ("depth:bernoulli_", "bernoulli (bernoulli_)", pytest.approx(0.2), (1,), 0),
    ],
    "guarded": [("dropout", "dropout", 0.3, (16,), 0), ("dropout#2", "dropout", 0.2, (16,), 0)],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_sites_are_found_with_their_place_p_and_shape(name):
    make, data = ZOO[name]
    sites = found(make(), data(3)).sites
    assert [(s.name, s.kind, s.p, s.shape, s.axis) for s in sites] == EXPECTED[name]
    assert [s.index for s in sites] == list(range(len(sites)))


def test_every_kind_of_the_table_is_met_by_a_model():
    """A row of the table without a model that uses it would be untested."""
    met = {site.kind for make, data in ZOO.values() for site in found(make(), data(3)).sites}
    functional = {"feature_dropout", "gru dropout", "rnn_tanh dropout", "rnn_relu dropout"}
    assert {kind.name for kind in DROPOUT_OPS} - met <= functional


@pytest.mark.parametrize(
    ("call", "kind", "masked"),
    [
        (lambda x, on: torch.dropout(x, 0.3, on), "dropout", (6, 5)),
        (lambda x, on: torch.dropout_(x, 0.3, on), "dropout", (6, 5)),
        (lambda x, on: torch.feature_dropout(x, 0.3, on), "feature_dropout", (6, 5)),
        (lambda x, on: torch.alpha_dropout(x, 0.3, on), "alpha_dropout", (6, 5)),
        (lambda x, on: F.dropout(x, 0.3, on, inplace=True), "dropout", (6, 5)),
        (lambda x, on: F.dropout2d(x[..., None], 0.3, on)[..., 0], "dropout2d", (6, 5, 1)),
        (lambda x, on: nn.functional.feature_alpha_dropout(x, 0.3, on), "feature_alpha_dropout", (6, 5)),
    ],
)
def test_functional_forms_are_found(call, kind, masked):
    class Functional(nn.Module):
        def forward(self, x):
            return call(x * 1.0, self.training).flatten(1)

    sites = found(Functional(), torch.randn(3, 6, 5)).sites
    assert [(s.kind, s.p, s.shape) for s in sites] == [(kind, 0.3, masked)]


def test_a_model_without_dropout_is_refused_with_the_choices():
    with pytest.raises(SiteError, match=r"Sequential has no live dropout.*trained with dropout.*Moments"):
        found(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0)), torch.randn(3, 4))


@pytest.mark.parametrize(
    "noise",
    [
        lambda x: torch.poisson(x.abs()),
        lambda x: x[torch.randperm(len(x))],
        lambda x: torch._standard_gamma(x.abs() + 1.0),
        lambda x: torch.rand(x.shape, out=torch.empty_like(x)),
    ],
)
def test_randomness_that_no_mask_can_drive_is_named(noise):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.fc = nn.Dropout(0.5), nn.Linear(4, 3)

        def forward(self, x):
            if self.training:
                x = x + noise(x)
            return self.fc(self.drop(x))

    with pytest.raises(SiteError, match=r"Noisy draws randomness .*(poisson|randperm|gamma|rand)") as refused:
        found(Noisy(), torch.randn(3, 4))
    assert str(refused.value).endswith(" use: Dropout(sites=['drop', ...])")
    assert [s.name for s in found(Noisy(), torch.randn(3, 4), chosen=["drop"]).sites] == ["drop"]


def test_packed_sequences_are_refused():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.fc = nn.LSTM(4, 5, num_layers=2, dropout=0.5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x):
            lengths = torch.full((x.shape[0],), x.shape[1])
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            _, (h, _) = self.rnn(packed)
            return self.fc(h[-1])

    with pytest.raises(SiteError, match=r"Packed draws randomness .*rnn \(lstm dropout on a packed sequence\)"):
        found(Packed(), torch.randn(3, 6, 4))


def test_a_mask_that_would_cover_several_items_is_refused():
    class Unbatched(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout1d(0.5)

        def forward(self, x):  # (B, 6) reads as one item of B channels; transposed, the items share what is dropped
            return self.drop(x.t()).t()

    with pytest.raises(SiteError, match=r"site 0 \(drop: dropout1d, p=0.5\) on \(6, 2\).*several items"):
        found(Unbatched(), torch.randn(3, 6))


def test_items_in_two_dimensions_are_refused():
    class Similarities(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(x @ x.t()) @ x

    with pytest.raises(SiteError, match=r"site drop: .*\(2, 2\) for two items and \(3, 3\) for three"):
        found(Similarities(), torch.randn(3, 6))


def test_rows_that_interleave_the_items_are_refused():
    class Interleaved(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.fc = nn.Dropout(0.5), nn.Linear(6, 3)

        def forward(self, x):  # (B, 4, 6): rows run patch after patch, not item after item
            B, P, D = x.shape
            h = self.drop(x.transpose(0, 1).reshape(P * B, D))
            return self.fc(h).view(P, B, 3).mean(0)

    with pytest.raises(
        SiteError, match=r"site 0 \(drop: dropout, p=0.5\): swapping .* 4 rows in dimension 0.*item after item"
    ):
        found(Interleaved(), torch.randn(3, 4, 6))


def test_items_that_change_places_are_refused():
    class Sorts(nn.Module):
        """Sorts its batch on the way, as code for packed sequences does: a mask would follow the row, not the item."""

        def __init__(self):
            super().__init__()
            self.drop, self.fc = nn.Dropout(0.5), nn.Linear(6, 3)

        def forward(self, x):
            order = x[:, 0].argsort()
            return self.fc(self.drop(x[order]))[order.argsort()]

    with pytest.raises(SiteError, match=r"swapping two items of the batch does not swap their rows"):
        found(Sorts(), torch.randn(3, 6))


def test_items_that_look_at_their_neighbors_are_refused():
    class Centers(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.fc = nn.Dropout(0.5), nn.Linear(6, 3)

        def forward(self, x):
            return self.fc(self.drop(x - x.detach()[:1]))

    with pytest.raises(SiteError, match=r"independent of each other"):
        found(Centers(), torch.randn(3, 6))


@pytest.mark.parametrize("where", [0, 2])
def test_batch_statistics_in_evaluation_are_refused(where):
    layers = [nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 8)]
    layers.insert(where + 1, nn.BatchNorm1d(8, track_running_stats=False))
    torch.manual_seed(0)
    with pytest.raises(SiteError, match="changes when a third joins the batch"):
        found(nn.Sequential(*layers).eval(), torch.randn(3, 6))


def test_p_is_set_for_all_or_by_name():
    x = torch.randn(3, 8)
    make, _ = ZOO["mlp"]
    assert [s.p for s in found(make(), x, p=0.1).sites] == [0.1, 0.1]
    assert [(s.p, s.model_p) for s in found(make(), x, p={"net.5": 0.25}).sites] == [(0.3, 0.3), (0.25, 0.5)]
    assert [s.p for s in found(make(), x, p={0: 0.75, "net.5": 0.2}).sites] == [0.75, 0.2]
    with pytest.raises(SiteError, match=r"'nett' matches none of 0 net.2, 1 net.5"):
        found(make(), x, p={"nett": 0.2})
    with pytest.raises(SiteError, match=r"site 1 \(net.5\): drop probability"):
        found(make(), x, p={1: 1e-7})
    with pytest.raises(SiteError, match=r"with a probability of its own"):
        found(ZOO["stochastic-depth"][0](), x, p=0.5)


def test_weights_are_dropped_where_a_model_has_no_dropout():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 4, 3))
    x = torch.randn(3, 1, 6, 6)
    sites = found(model, x, weight_p=0.25).sites
    assert [(s.name, s.kind, s.p, s.shape, s.axis) for s in sites] == [
        ("0", "weight dropout", 0.25, (4, 1, 3, 3), None),
        ("3", "weight dropout", 0.25, (3, 64), None),
    ]
    with pytest.raises(SiteError, match=r"weights=...\) is for models without dropout; MLP has net.2, net.5"):
        found(ZOO["mlp"][0](), torch.randn(3, 8), weight_p=0.1)


def test_p_too_small_for_the_mask_is_refused():
    with pytest.raises(SiteError, match=r"site 0 \(1\): drop probability 1e-06"):
        found(nn.Sequential(nn.Linear(4, 4), nn.Dropout(1e-6)), torch.randn(3, 4))


def test_sites_are_chosen_by_pattern_or_index():
    x = torch.randn(3, 3, 8, 8)
    discovery = found(ViT(), x, chosen=["encoder.layers.1.*", 0])
    assert [s.name for s in discovery.sites if s.active] == [
        "drop",
        "encoder.layers.1.self_attn",
        "encoder.layers.1.dropout1",
        "encoder.layers.1.dropout",
        "encoder.layers.1.dropout2",
    ]
    with pytest.raises(SiteError, match=r"'decoder.\*' matches none of 0 drop, 1 encoder.layers.0.self_attn"):
        found(ViT(), x, chosen=["decoder.*"])


def test_idle_calls_are_told_apart_from_sites():
    discovery = found(Guarded(), torch.randn(3, 8))
    assert discovery.idle == ("dropout#3",)
    assert discovery.training == ("",)


def test_a_probe_that_fails_says_which_and_why():
    class NeedsTargets(nn.Module):
        def forward(self, x, targets=None):
            if self.training:
                return targets.sum()
            return x

    with pytest.raises(SiteError, match=r"NeedsTargets failed in the training-mode probe.*wrap it"):
        found(NeedsTargets(), torch.randn(3, 4))


class FailsAtZero(nn.Module):
    """Cannot run where a number that it draws is 0, one of the constants that are tried in the numbers' place."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        h = torch.relu(self.a(x))
        if self.training:
            u = torch.rand_like(h)
            if float(u.min()) == 0.0:
                raise RuntimeError("division by zero")
            h = h * (u > 0.3)
        return self.b(h)


def test_a_constant_that_the_model_cannot_run_with_is_passed_over():
    torch.manual_seed(0)
    model = FailsAtZero()
    discovery = found(model, torch.randn(3, 8))
    assert [site.kind for site in discovery.sites] == ["uniform (rand_like)"]
    assert discovery.constants.uniform is None  # just below 1: everything is kept, as in evaluation
