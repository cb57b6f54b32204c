"""x-transformers, and low-rank adapters: peft and loralib."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .entry import Entry, Logits, images, tokens
from .huggingface_builders import BERT


def x_encoder(**options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from x_transformers import Encoder, ViTransformerWrapper

        layers = Encoder(dim=32, depth=3, heads=2, attn_dim_head=16, **options)
        return ViTransformerWrapper(image_size=32, patch_size=8, num_classes=3, attn_layers=layers, emb_dropout=0.1)

    return make


def x_tokens() -> nn.Module:
    from x_transformers import Encoder, TransformerWrapper

    layers = Encoder(dim=32, depth=2, heads=2, attn_dim_head=16, attn_dropout=0.1, ff_dropout=0.1)
    wrapper = TransformerWrapper(num_tokens=50, max_seq_len=16, attn_layers=layers, logits_dim=3)
    return Mean(wrapper)


class Mean(nn.Module):
    """Logits of a sequence: the mean of its tokens'."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).mean(1)


def peft(**options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from peft import LoraConfig, get_peft_model

        bert = BERT().model
        config = LoraConfig(
            r=4, lora_dropout=0.3, target_modules=["query", "value"], init_lora_weights=False, **options
        )
        return Logits(get_peft_model(bert, config))

    return make


def loralib(merge_weights: bool) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import loralib

        options = {"r": 4, "lora_dropout": 0.3, "merge_weights": merge_weights}
        model = nn.Sequential(loralib.Linear(8, 16, **options), nn.ReLU(), loralib.Linear(16, 3, **options))
        for layer in (model[0], model[2]):
            nn.init.normal_(layer.lora_B, std=0.3)  # zero as loralib makes it
        return model

    return make


ADAPTERS = [
    Entry(
        "x-transformers encoder, attention and feed-forward dropout",
        "x_transformers",
        x_encoder(attn_dropout=0.1, ff_dropout=0.1),
        images(),
    ),
    Entry("x-transformers on tokens", "x_transformers", x_tokens, tokens()),
    Entry(
        "x-transformers encoder, layer_dropout",
        "x_transformers",
        x_encoder(ff_dropout=0.1, layer_dropout=0.3),
        images(),
        refused="python",
        note="skips layers by Python's random; set layer_dropout=0 and use attn_dropout, ff_dropout",
    ),
    Entry("peft LoRA on BERT", "peft", peft(), tokens()),
    Entry("peft DoRA on BERT", "peft", peft(use_dora=True), tokens()),
    Entry("loralib LoRA, merge_weights=False", "loralib", loralib(False), lambda n: torch.randn(n, 8)),
    Entry(
        "loralib LoRA, merged by eval()",
        "loralib",
        loralib(True),
        lambda n: torch.randn(n, 8),
        refused="lora_dropout",
        note="merged weights have no dropout; call model.train() before scoring, or build with merge_weights=False",
    ),
]
