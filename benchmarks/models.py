"""Models of the benchmarks, with the shapes of the originals and random weights: time does not depend on weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """A residual block of ResNet-50 (He et al. 2016), with dropout at its end if ``p`` > 0."""

    def __init__(self, inside: int, width: int, stride: int, p: float) -> None:
        super().__init__()
        outside = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outside, 1, bias=False), nn.BatchNorm2d(outside)
        self.drop = nn.Dropout(p) if p else nn.Identity()
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.skip = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return self.drop(F.relu(self.bn3(self.conv3(y)) + self.skip(x)))


class ResNet50(nn.Module):
    """ResNet-50 for images of 224 x 224. blocks_p: dropout in each block of the last two stages; else one before the Linear."""

    def __init__(self, blocks_p: float = 0.0, head_p: float = 0.5, width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        inside = width
        for stage, depth in enumerate((3, 4, 6, 3)):
            for block in range(depth):
                wide = width << stage
                blocks.append(Bottleneck(inside, wide, 2 if stage and not block else 1, blocks_p if stage > 1 else 0.0))
                inside = 4 * wide
        self.blocks = nn.Sequential(*blocks)
        self.drop, self.fc = nn.Dropout(head_p) if head_p else nn.Identity(), nn.Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.blocks(self.stem(x)).mean((2, 3))))


class Block(nn.Module):
    """A block of ViT (Dosovitskiy et al. 2021): dropout behind attention, and twice in the MLP."""

    def __init__(self, D: int, heads: int, p: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.out = nn.LayerNorm(D), nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.norm2, self.wide, self.narrow = nn.LayerNorm(D), nn.Linear(D, 4 * D), nn.Linear(4 * D, D)
        self.drop1, self.drop2, self.drop3 = nn.Dropout(p), nn.Dropout(p), nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, L, D)
        x = x + self.drop1(self.out(seen))
        return x + self.drop3(self.narrow(self.drop2(F.gelu(self.wide(self.norm2(x))))))


class ViT(nn.Module):
    """ViT-B/16 for images of 224 x 224: dropout 0.1 behind the positions and in each of 12 blocks, 37 sites."""

    def __init__(self, D: int = 768, heads: int = 12, depth: int = 12, p: float = 0.1, side: int = 224) -> None:
        super().__init__()
        tokens = (side // 16) ** 2 + 1
        self.patch = nn.Conv2d(3, D, 16, 16)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, D)), nn.Parameter(torch.randn(1, tokens, D) * 0.02)
        self.drop, self.norm, self.fc = nn.Dropout(p), nn.LayerNorm(D), nn.Linear(D, 1000)
        self.blocks = nn.Sequential(*(Block(D, heads, p) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.drop(torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position)
        return self.fc(self.norm(self.blocks(x))[:, 0])


class GalCNN(nn.Module):
    """Gal, Islam & Ghahramani 2017: 28 x 28 images, two 4 x 4 convolutions of 32, dropout 1/4, 128, dropout 1/2, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 4), nn.Conv2d(32, 32, 4)
        self.drop1, self.drop2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.dense1, self.dense2 = nn.Linear(3872, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return self.dense2(self.drop2(F.relu(self.dense1(self.drop1(x).flatten(1)))))


class UNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) of four levels, dropout of channels at the bottom and on the way up, 21 classes."""

    def __init__(self, width: int = 32, p: float = 0.2, classes: int = 21) -> None:
        super().__init__()
        widths = [width << level for level in range(4)]

        def pair(inside: int, outside: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(inside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(),
                nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(),
            )  # fmt: skip

        self.down = nn.ModuleList(pair(inside, outside) for inside, outside in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[-2::-1])
        self.join = nn.ModuleList(pair(2 * w, w) for w in widths[-2::-1])
        self.drops = nn.ModuleList(nn.Dropout2d(p) for _ in widths)
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for level, down in enumerate(self.down):
            x = down(x if not level else F.max_pool2d(x, 2))
            kept.append(x)
        x = self.drops[0](kept.pop())
        for up, join, drop in zip(self.up, self.join, self.drops[1:], strict=True):
            x = drop(join(torch.cat([kept.pop(), up(x)], 1)))
        return self.last(x)
