"""Hugging Face transformers, built from small configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .entry import Entry, images, masked_tokens, sound, tokens
from .huggingface_builders import (
    BART,
    BERT,
    BLOCK,
    SEGFORMER,
    STAGES,
    T5,
    VIT,
    WHISPER,
    checkpointed,
    classifier,
    encoder,
    image_classifier,
    sequence_classifier,
    spectrograms,
    speech_classifier,
    speech_t5,
    with_end,
)

PACKAGE = "transformers"


def _entry(name: str, make: Callable[[], nn.Module], data: Callable[[int], Any], **how: Any) -> Entry:
    return Entry(f"Hugging Face {name}", PACKAGE, make, data, **how)


LANGUAGE = [
    _entry("BERT, dict input with attention mask", BERT, masked_tokens),
    _entry("BERT, gradient checkpointing on", checkpointed(BERT), tokens()),
    _entry("BERT, eager attention", sequence_classifier("Bert", attn_implementation="eager"), tokens()),
    _entry("RoBERTa", sequence_classifier("Roberta", pad_token_id=0), masked_tokens),
    _entry(
        "DistilBERT",
        classifier(
            "DistilBertConfig",
            "DistilBertForSequenceClassification",
            vocab_size=50,
            dim=32,
            n_layers=2,
            n_heads=2,
            hidden_dim=48,
            num_labels=3,
        ),
        tokens(),
    ),
    _entry("ALBERT", sequence_classifier("Albert", embedding_size=16, classifier_dropout_prob=0.2), tokens()),
    _entry("ELECTRA", sequence_classifier("Electra", embedding_size=16), tokens()),
    _entry("DeBERTa", sequence_classifier("Deberta", relative_attention=True, pos_att_type=["c2p", "p2c"]), tokens()),
    _entry(
        "DeBERTa v2", sequence_classifier("DebertaV2", relative_attention=True, pos_att_type=["c2p", "p2c"]), tokens()
    ),
    _entry("MPNet", sequence_classifier("MPNet"), tokens()),
    _entry(
        "XLNet",
        classifier(
            "XLNetConfig",
            "XLNetForSequenceClassification",
            vocab_size=50,
            d_model=32,
            n_layer=2,
            n_head=2,
            d_inner=48,
            num_labels=3,
        ),
        tokens(),
    ),
    _entry("Longformer", sequence_classifier("Longformer", attention_window=[4, 4]), tokens()),
    _entry(
        "GPT-2",
        classifier(
            "GPT2Config",
            "GPT2ForSequenceClassification",
            vocab_size=50,
            n_positions=40,
            n_embd=32,
            n_layer=2,
            n_head=2,
            num_labels=3,
            pad_token_id=0,
        ),
        tokens(),
    ),
    _entry("T5 encoder, pooled", encoder("T5Config", "T5EncoderModel", **T5), tokens()),
    _entry(
        "Flaubert, LayerDrop",
        classifier(
            "FlaubertConfig",
            "FlaubertForSequenceClassification",
            vocab_size=50,
            emb_dim=32,
            n_layers=3,
            n_heads=2,
            num_labels=3,
            layerdrop=0.2,
            pad_index=0,
        ),
        tokens(),
    ),
    _entry(
        "BART, LayerDrop",
        classifier("BartConfig", "BartForSequenceClassification", **BART, encoder_layerdrop=0.2, decoder_layerdrop=0.2),
        with_end,
    ),
    _entry(
        "OPT, LayerDrop",
        classifier(
            "OPTConfig",
            "OPTForSequenceClassification",
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            ffn_dim=48,
            num_labels=3,
            layerdrop=0.2,
            max_position_embeddings=40,
            pad_token_id=0,
            word_embed_proj_dim=32,
        ),
        tokens(),
    ),
    _entry(
        "Funnel",
        classifier(
            "FunnelConfig",
            "FunnelForSequenceClassification",
            vocab_size=50,
            block_sizes=[1, 1],
            num_decoder_layers=1,
            d_model=32,
            n_head=2,
            d_head=16,
            d_inner=48,
            num_labels=3,
        ),
        tokens(),
    ),
    _entry(
        "Reformer, LSH attention",
        classifier(
            "ReformerConfig",
            "ReformerForSequenceClassification",
            vocab_size=50,
            hidden_size=32,
            attn_layers=["lsh", "lsh"],
            num_attention_heads=2,
            attention_head_size=16,
            feed_forward_size=48,
            axial_pos_embds=False,
            max_position_embeddings=64,
            lsh_attn_chunk_length=4,
            num_buckets=2,
            num_labels=3,
            is_decoder=False,
            hidden_dropout_prob=0.1,
        ),
        tokens(16),
        refused="rand",
        note="hashes by random rotations, also in evaluation; attn_layers=['local'] has none",
    ),
]

VISION = [
    _entry("ViT", image_classifier("ViT", **VIT), images()),
    _entry("DeiT", image_classifier("DeiT", **VIT), images()),
    _entry("Swin, drop path", image_classifier("Swin", image_size=32, patch_size=4, **STAGES), images()),
    _entry("Swin v2, drop path", image_classifier("Swinv2", image_size=32, patch_size=4, **STAGES), images()),
    _entry("SegFormer classifier, drop path", image_classifier("Segformer", **SEGFORMER), images()),
    _entry(
        "SegFormer, dense output",
        classifier("SegformerConfig", "SegformerForSemanticSegmentation", num_labels=3, **SEGFORMER),
        images(),
    ),
    _entry("BEiT, drop path", image_classifier("Beit", **VIT, drop_path_rate=0.3), images()),
    _entry("Data2VecVision, drop path", image_classifier("Data2VecVision", **VIT, drop_path_rate=0.3), images()),
    _entry(
        "ConvNeXt, drop path",
        image_classifier(
            "ConvNext",
            hidden_sizes=[8, 16],
            depths=[2, 2],
            num_stages=2,
            drop_path_rate=0.3,
            layer_scale_init_value=0.5,
        ),
        images(),
    ),
    _entry(
        "ConvNeXt v2, drop path",
        image_classifier("ConvNextV2", hidden_sizes=[8, 16], depths=[2, 2], num_stages=2, drop_path_rate=0.3),
        images(),
    ),
    _entry(
        "DINOv2, drop path",
        image_classifier("Dinov2", **{**VIT, "mlp_ratio": 2}, drop_path_rate=0.3, layerscale_value=0.5),
        images(),
    ),
    _entry(
        "PoolFormer, drop path",
        image_classifier(
            "PoolFormer",
            hidden_sizes=[8, 16],
            depths=[1, 1],
            num_encoder_blocks=2,
            patch_sizes=[3, 3],
            strides=[2, 2],
            padding=[1, 1],
            drop_path_rate=0.3,
            layer_scale_init_value=0.5,
            mlp_ratio=2.0,
        ),
        images(),
    ),
    _entry(
        "PVT, drop path",
        image_classifier(
            "Pvt",
            image_size=32,
            num_encoder_blocks=2,
            depths=[1, 1],
            sequence_reduction_ratios=[2, 1],
            hidden_sizes=[16, 32],
            patch_sizes=[4, 2],
            strides=[4, 2],
            num_attention_heads=[1, 2],
            mlp_ratios=[2, 2],
            drop_path_rate=0.3,
            hidden_dropout_prob=0.1,
        ),
        images(),
    ),
]

SPEECH_MODELS = [
    _entry("wav2vec 2.0, LayerDrop", speech_classifier("Wav2Vec2"), sound(), note="SpecAugment off"),
    _entry("HuBERT, LayerDrop", speech_classifier("Hubert"), sound(), note="SpecAugment off"),
    _entry("WavLM, LayerDrop", speech_classifier("WavLM"), sound(), note="SpecAugment off"),
    _entry("Data2VecAudio, LayerDrop", speech_classifier("Data2VecAudio"), sound(), note="SpecAugment off"),
    _entry(
        "wav2vec 2.0, SpecAugment on",
        speech_classifier("Wav2Vec2", apply_spec_augment=True, mask_time_prob=0.5, mask_time_length=2),
        sound(),
        refused="numpy",
        note="augmentation by NumPy's generator; set apply_spec_augment=False, or leave it off with Dropout(sites=['*dropout*'])",
    ),
    _entry("SpeechT5 encoder, LayerDrop, pooled", speech_t5, sound(), note="SpecAugment off"),
    _entry(
        "Whisper encoder, LayerDrop",
        classifier("WhisperConfig", "WhisperForAudioClassification", **WHISPER, encoder_layerdrop=0.2),
        spectrograms,
    ),
    _entry(
        "Audio Spectrogram Transformer",
        classifier(
            "ASTConfig",
            "ASTForAudioClassification",
            **BLOCK,
            patch_size=4,
            frequency_stride=4,
            time_stride=4,
            max_length=16,
            num_mel_bins=8,
            hidden_dropout_prob=0.1,
        ),
        lambda n: torch.randn(n, 16, 8),
    ),
]

HUGGING_FACE = [*LANGUAGE, *VISION, *SPEECH_MODELS]
