"""Models as people write them, each with a batch of inputs: what the passes must get right."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 32),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(32, 16),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(16, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class GalCNN(nn.Module):
    """Gal, Islam & Ghahramani 2017, narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 4), nn.Conv2d(4, 4, 4)
        self.drop1, self.drop2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.dense1, self.dense2 = nn.Linear(4 * 5 * 5, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return self.dense2(self.drop2(F.relu(self.dense1(self.drop1(x).flatten(1)))))


class Block(nn.Module):
    def __init__(self, width: int, p: float) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.drop = nn.Dropout(p)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.drop(self.relu(self.bn1(self.conv1(x))))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class ResNetHead(nn.Module):
    """Residual blocks without dropout, then a dropout head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.Sequential(Block(6, 0.0), Block(6, 0.0))
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.dropout(self.blocks(self.stem(x)).mean((2, 3)), p=0.4, training=self.training))


class ResNetBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.Sequential(Block(6, 0.2), Block(6, 0.3))
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 4, 8) * 0.1)
        self.drop = nn.Dropout(0.1)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.patch(x).flatten(2).transpose(1, 2) + self.position)
        return self.head(self.encoder(x).mean(1))


class SDPAttention(nn.Module):
    """Attention as nanoGPT writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.out, self.head = nn.Linear(3, 8), nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 4)
        self.p = 0.3

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        B, L, D = x.shape
        q, k, v = (part.view(B, L, 2, D // 2).transpose(1, 2) for part in self.qkv(x).split(D, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p if self.training else 0, is_causal=True)
        y = F.dropout(self.out(y.transpose(1, 2).reshape(B, L, D)), 0.25, self.training)
        return self.head((x + y).mean(1))


class SequenceFirst(nn.Module):
    """A sequence-first encoder: dimension 1 of every site holds the items."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x.transpose(0, 1)).mean(0))


class FoldedPatches(nn.Module):
    """Patches of an item join the batch dimension, item after item."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.drop, self.head = nn.Linear(6, 12), nn.Dropout(0.3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:  # (B, P, 6)
        B, P, D = x.shape
        return self.head(self.drop(F.relu(self.dense(x.reshape(B * P, D)))).view(B, P, -1).mean(1))


class LSTMClassifier(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, batch_first: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.rnn = kind(6, 5, num_layers=3, dropout=0.3, batch_first=batch_first, bidirectional=True)
        self.drop, self.head, self.first = nn.Dropout(0.2), nn.Linear(10, 3), batch_first

    def forward(self, tokens: Tensor) -> Tensor:  # (B, L)
        x = self.embedding(tokens)
        out, _ = self.rnn(x if self.first else x.transpose(0, 1))
        return self.head(self.drop(out[:, -1] if self.first else out[-1]))


class UNet(nn.Module):
    """Dense output (B, C, H, W) with channel dropout and a concatenated skip."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle, self.up = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Conv2d(4, 8, 3, padding=1),
            nn.ConvTranspose2d(8, 4, 2, stride=2),
        )
        self.drop, self.out = nn.Dropout2d(0.4), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        deep = self.drop(F.relu(self.middle(F.max_pool2d(skip, 2))))
        return self.out(torch.cat([skip, self.up(deep)], 1))


class TwoHeads(nn.Module):
    """Regression: (mean, log-variance)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.log_variance = nn.Linear(4, 16), nn.Linear(16, 1), nn.Linear(16, 1)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(torch.tanh(self.body(x)))
        return torch.cat([self.mean(h), self.log_variance(h)], 1)


class Branching(nn.Module):
    """A branch on data, work in place, and one dropout module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(8, 16), nn.Linear(16, 3), nn.Dropout(0.3, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu_(self.a(x))
        self.drop(h)  # in place: the result is not even assigned
        if h.sum() > -1e9:
            h = h + 1.0
        return self.b(self.drop(h))


class SelfNormalizing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dense, self.out = nn.Conv1d(2, 6, 3), nn.Linear(6, 12), nn.Linear(12, 3)
        self.alpha, self.feature, self.channel = nn.AlphaDropout(0.2), nn.FeatureAlphaDropout(0.3), nn.Dropout1d(0.25)

    def forward(self, x: Tensor) -> Tensor:  # (B, 2, L)
        x = self.channel(F.selu(self.conv(x)))
        return self.out(self.alpha(F.selu(self.dense(self.feature(x).mean(2)))))


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.out = nn.Conv3d(1, 4, 3), nn.Dropout3d(0.5), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(F.relu(self.conv(x))).mean((2, 3, 4)))


def drop_path(x: Tensor, drop_prob: float, training: bool) -> Tensor:
    """As timm writes it."""
    if drop_prob == 0.0 or not training:
        return x
    keep_prob = 1 - drop_prob
    random_tensor = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep_prob)
    random_tensor.div_(keep_prob)
    return x * random_tensor


class StochasticDepth(nn.Module):
    """Residual branches dropped whole: timm's DropPath, and torchvision's form of the same."""

    class DropPath(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return drop_path(x, 0.3, self.training)

    class Torchvision(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                return x
            survival = 0.8
            noise = torch.empty([x.shape[0]] + [1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
            noise = noise.bernoulli_(survival)
            if survival > 0.0:
                noise.div_(survival)
            return x * noise

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.path, self.depth = self.DropPath(), self.Torchvision()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.path(F.relu(self.a(x)))
        return self.head(x + self.depth(F.relu(self.b(x))))


class Guarded(nn.Module):
    """Dropout that only shows in training mode, beside a batch norm that must not move."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.a(x))
        if self.training:
            h = F.dropout(h, 0.3)
        h = h + F.dropout(F.relu(h), p=0.2, training=self.training)
        return self.b(F.dropout(h, 0.4, training=False))


class Lightning(nn.Module):
    """A LightningModule's habits: training_step beside forward, sub-modules in a dict, a call counter."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"body": nn.Linear(8, 16), "drop": nn.Dropout(0.3), "head": nn.Linear(16, 3)})
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.parts["head"](self.parts["drop"](F.relu(self.parts["body"](x))))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


class Decoder(nn.Module):
    """Learned queries read a set by cross-attention, as DETR does."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 2, 8))
        self.layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.2, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:  # (B, L, 8)
        return self.head(self.layer(self.query.expand(len(x), -1, -1), x).mean(1))


class MultiLabel(nn.Module):
    """One logit per label (likelihood bernoulli), dropout between two layers that share a trunk with a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.gate, self.out = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 6)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(torch.tanh(self.trunk(x))) * torch.sigmoid(self.gate(x)))


def _tokens(n: int) -> Tensor:
    return torch.arange(n * 7).reshape(n, 7) * 5 % 11


ZOO = {
    "mlp": (MLP, lambda n: torch.randn(n, 8)),
    "gal-cnn": (GalCNN, lambda n: torch.randn(n, 1, 16, 16)),
    "resnet-head": (ResNetHead, lambda n: torch.randn(n, 3, 8, 8)),
    "resnet-blocks": (ResNetBlocks, lambda n: torch.randn(n, 3, 8, 8)),
    "vit": (ViT, lambda n: torch.randn(n, 3, 8, 8)),
    "sdpa": (SDPAttention, lambda n: torch.randn(n, 5, 3)),
    "sequence-first": (SequenceFirst, lambda n: torch.randn(n, 5, 8)),
    "folded": (FoldedPatches, lambda n: torch.randn(n, 4, 6)),
    "lstm": (LSTMClassifier, _tokens),
    "gru-sequence-first": (lambda: LSTMClassifier(nn.GRU, batch_first=False), _tokens),
    "unet": (UNet, lambda n: torch.randn(n, 1, 8, 8)),
    "two-heads": (TwoHeads, lambda n: torch.randn(n, 4)),
    "branching": (Branching, lambda n: torch.randn(n, 8)),
    "self-normalizing": (SelfNormalizing, lambda n: torch.randn(n, 2, 9)),
    "volume": (Volume, lambda n: torch.randn(n, 1, 6, 6, 6)),
    "stochastic-depth": (StochasticDepth, lambda n: torch.randn(n, 8)),
    "guarded": (Guarded, lambda n: torch.randn(n, 8)),
    "decoder": (Decoder, lambda n: torch.randn(n, 5, 8)),
    "multi-label": (MultiLabel, lambda n: torch.randn(n, 8)),
    "lightning": (Lightning, lambda n: torch.randn(n, 8)),
}
