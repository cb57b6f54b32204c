"""Small configurations of Hugging Face transformers, and functions that build models of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .entry import Logits, Pooled, tokens

BLOCK = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_labels": 3,
}
TEXT = {
    **BLOCK,
    "vocab_size": 50,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
IMAGE = {"image_size": 32, "patch_size": 8, "num_channels": 3}
SPEECH = {
    **BLOCK,
    "conv_dim": (8, 8),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "vocab_size": 30,
    "layerdrop": 0.2,
    "apply_spec_augment": False,
}
STAGES = {"depths": [1, 1], "embed_dim": 16, "num_heads": [2, 2], "window_size": 2, "drop_path_rate": 0.3}


def classifier(config: str, model: str, **options: Any) -> Callable[[], nn.Module]:
    """The named classes of transformers; the output's ``logits``."""

    def make() -> nn.Module:
        import transformers

        return Logits(getattr(transformers, model)(getattr(transformers, config)(**options)))

    return make


def encoder(config: str, model: str, width: int = 32, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        return Pooled(getattr(transformers, model)(getattr(transformers, config)(**options)), width)

    return make


def checkpointed(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = make()
        model.model.gradient_checkpointing_enable()  # type: ignore[operator, union-attr]
        return model

    return build


def speech_t5() -> nn.Module:
    from transformers import SpeechT5Config
    from transformers.models.speecht5.modeling_speecht5 import SpeechT5EncoderWithSpeechPrenet

    options = {name: value for name, value in SPEECH.items() if name not in ("layerdrop", "num_labels")}
    config = SpeechT5Config(
        **options,
        encoder_layers=3,
        encoder_attention_heads=2,
        encoder_ffn_dim=48,
        encoder_layerdrop=0.2,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=48,
    )
    return Pooled(SpeechT5EncoderWithSpeechPrenet(config), 32)


def with_end(n: int) -> Tensor:
    """Token sequences that end in the one token BART's classifier looks for."""
    x = tokens()(n)
    x[:, -1] = 2
    return x


def spectrograms(n: int) -> Tensor:
    return torch.randn(n, 8, 40)


def sequence_classifier(family: str, name: str | None = None, **options: Any) -> Callable[[], nn.Module]:
    return classifier(f"{family}Config", f"{name or family}ForSequenceClassification", **{**TEXT, **options})


def image_classifier(family: str, **options: Any) -> Callable[[], nn.Module]:
    return classifier(f"{family}Config", f"{family}ForImageClassification", **{"num_labels": 3, **options})


def speech_classifier(family: str, **options: Any) -> Callable[[], nn.Module]:
    return classifier(f"{family}Config", f"{family}ForSequenceClassification", **{**SPEECH, **options})


SEGFORMER = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "hidden_sizes": [16, 32],
    "patch_sizes": [3, 3],
    "strides": [2, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "drop_path_rate": 0.3,
    "decoder_hidden_size": 16,
    "hidden_dropout_prob": 0.1,
}
WHISPER = {
    "vocab_size": 50,
    "num_mel_bins": 8,
    "encoder_layers": 3,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 48,
    "d_model": 32,
    "max_source_positions": 20,
    "classifier_proj_size": 16,
    "num_labels": 3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "dropout": 0.1,
}
BART = {
    "vocab_size": 50,
    "max_position_embeddings": 40,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_labels": 3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5 = {
    "vocab_size": 50,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 2,
    "num_labels": 3,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
VIT = {**BLOCK, **IMAGE, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
BERT = sequence_classifier("Bert")
