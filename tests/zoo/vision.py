"""timm, torchvision, MONAI and segmentation-models-pytorch, small where their builders allow it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .entry import Entry, Logits, images

DROPS = {"drop_rate": 0.1, "drop_path_rate": 0.3}


def timm(architecture: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(architecture, pretrained=False, num_classes=3, **options)

    return make


def torchvision(architecture: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision import models

        return getattr(models, architecture)(weights=None, num_classes=3, **options)

    return make


def narrow_vgg() -> nn.Module:
    """VGG's own features and classifier, 64 wide where they are 4096."""
    from torchvision.models import vgg

    model = vgg.VGG(vgg.make_layers([8, "M", 16, "M", 512, "M"]), num_classes=3, init_weights=False)
    model.classifier[0], model.classifier[3], model.classifier[6] = (
        nn.Linear(512 * 49, 64),
        nn.Linear(64, 64),
        nn.Linear(64, 3),
    )
    return model


def narrow_alexnet() -> nn.Module:
    from torchvision.models import AlexNet

    model = AlexNet(num_classes=3)
    model.classifier[1], model.classifier[4], model.classifier[6] = (
        nn.Linear(9216, 64),
        nn.Linear(64, 64),
        nn.Linear(64, 3),
    )
    return model


def small_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)], 0.3, 0.5, num_classes=3)


def small_efficientnet() -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    stages = [MBConvConfig(1, 3, 1, 8, 8, 1, 1.0, 1.0), MBConvConfig(4, 3, 2, 8, 16, 2, 1.0, 1.0)]
    return EfficientNet(stages, 0.2, 0.3, num_classes=3, last_channel=32)


def small_swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer(
        [4, 4], 16, [1, 1], [2, 2], [2, 2], dropout=0.1, attention_dropout=0.1, stochastic_depth_prob=0.3, num_classes=3
    )


def small_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 8, 2, 2, 32, 48, dropout=0.1, attention_dropout=0.1, num_classes=3)
    nn.init.normal_(model.heads.head.weight)  # zero as torchvision makes it
    return model


def densenet(checkpointed: bool = False) -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(4, (2, 2), 8, drop_rate=0.2, num_classes=3, memory_efficient=checkpointed)


def googlenet() -> nn.Module:
    from torchvision.models import GoogLeNet

    return Logits(GoogLeNet(num_classes=3, aux_logits=True, init_weights=False))


def monai(network: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from monai.networks import nets

        return Logits(getattr(nets, network)(**options))

    return make


def segmentation(architecture: str, encoder: str = "mobilenet_v2", **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import segmentation_models_pytorch as smp

        return Logits(getattr(smp, architecture)(encoder, encoder_weights=None, classes=2, **options))

    return make


TIMM = [
    Entry("timm " + name, "timm", timm(architecture, **options), images(size), **how)
    for name, architecture, size, options, how in (
        (
            "ViT",
            "vit_tiny_patch16_224",
            32,
            dict(
                img_size=32,
                patch_size=8,
                embed_dim=32,
                depth=2,
                num_heads=2,
                proj_drop_rate=0.1,
                attn_drop_rate=0.1,
                **DROPS,
            ),
            {},
        ),
        (
            "ViT, PatchDropout",
            "vit_tiny_patch16_224",
            32,
            {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "patch_drop_rate": 0.25},
            {},
        ),
        (
            "DeiT, distilled",
            "deit_tiny_distilled_patch16_224",
            32,
            dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, **DROPS),
            {},
        ),
        (
            "BEiT",
            "beit_base_patch16_224",
            32,
            dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, init_values=0.5, **DROPS),
            {},
        ),
        (
            "Swin",
            "swin_tiny_patch4_window7_224",
            32,
            dict(img_size=32, embed_dim=16, depths=(1, 1), num_heads=(2, 2), window_size=4, **DROPS),
            {},
        ),
        (
            "Swin v2",
            "swinv2_tiny_window8_256",
            32,
            dict(img_size=32, embed_dim=16, depths=(1, 1), num_heads=(2, 2), window_size=4, **DROPS),
            {},
        ),
        (
            "ConvNeXt",
            "convnext_atto",
            32,
            dict(depths=(1, 1, 1, 1), dims=(8, 16, 16, 16), ls_init_value=0.5, **DROPS),
            {},
        ),
        ("EfficientNet (TinyNet-E)", "tinynet_e", 32, DROPS, {}),
        ("MobileNet v3", "mobilenetv3_small_050", 32, DROPS, {}),
        ("ResNet", "resnet10t", 32, DROPS, {}),
        (
            "ResNet, DropBlock",
            "resnet10t",
            64,
            {"drop_block_rate": 0.5, "zero_init_last": False},
            {
                "refused": "batch",
                "note": "rescales by the share that the whole batch kept; set drop_block_rate=0 and use drop_rate",
            },
        ),
        ("RegNet", "regnetx_002", 32, DROPS, {}),
        ("MLP-Mixer", "mixer_s16_224", 32, dict(img_size=32, proj_drop_rate=0.1, **DROPS), {}),
        ("MobileViT", "mobilevit_xxs", 64, DROPS, {}),
    )
]

TORCHVISION = [
    Entry("torchvision " + name, "torchvision", make, images(size), **how)
    for name, make, size, how in (
        ("AlexNet", narrow_alexnet, 64, {}),
        ("VGG", narrow_vgg, 32, {}),
        ("SqueezeNet", torchvision("squeezenet1_1"), 64, {}),
        ("MobileNet v2", torchvision("mobilenet_v2", width_mult=0.35), 32, {}),
        ("MobileNet v3", torchvision("mobilenet_v3_small", width_mult=0.5), 32, {}),
        ("EfficientNet", small_efficientnet, 32, {}),
        ("ConvNeXt", small_convnext, 32, {}),
        ("Swin", small_swin, 32, {}),
        ("ViT", small_vit, 32, {}),
        ("DenseNet", densenet, 32, {}),
        ("DenseNet, checkpointed", lambda: densenet(True), 32, {}),
        (
            "GoogLeNet, auxiliary heads",
            googlenet,
            32,
            {"note": "the dropout of the heads changes nothing in the logits"},
        ),
        ("GoogLeNet, Dropout(sites=['model.dropout'])", googlenet, 32, {"sites": ["model.dropout"]}),
    )
]

FLAT = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
MONAI = [
    Entry("MONAI " + name, "monai", make, images(size, 1), **how)
    for name, make, size, how in (
        ("UNet", monai("UNet", **FLAT, channels=(8, 16, 32), strides=(2, 2), num_res_units=1, dropout=0.2), 32, {}),
        ("AttentionUnet", monai("AttentionUnet", **FLAT, channels=(8, 16, 32), strides=(2, 2), dropout=0.2), 32, {}),
        ("BasicUNet", monai("BasicUNet", **FLAT, features=(8, 8, 16, 16, 16, 8), dropout=0.2), 32, {}),
        (
            "DynUNet",
            monai(
                "DynUNet",
                **FLAT,
                kernel_size=[3, 3, 3],
                strides=[1, 2, 2],
                upsample_kernel_size=[2, 2],
                filters=[8, 16, 16],
                dropout=0.2,
            ),
            32,
            {},
        ),
        (
            "SegResNet",
            monai("SegResNet", **FLAT, init_filters=8, blocks_down=(1, 1), blocks_up=(1,), dropout_prob=0.2),
            32,
            {},
        ),
        (
            "VNet",
            monai(
                "VNet", spatial_dims=2, in_channels=1, out_channels=2, dropout_prob_down=0.3, dropout_prob_up=(0.3, 0.3)
            ),
            32,
            {},
        ),
        (
            "UNETR",
            monai(
                "UNETR",
                in_channels=1,
                out_channels=2,
                img_size=32,
                feature_size=8,
                hidden_size=24,
                mlp_dim=32,
                num_heads=2,
                spatial_dims=2,
                dropout_rate=0.1,
            ),
            32,
            {},
        ),
        (
            "SwinUNETR",
            monai(
                "SwinUNETR",
                in_channels=1,
                out_channels=2,
                spatial_dims=2,
                feature_size=12,
                window_size=4,
                depths=(1, 1, 1, 1),
                num_heads=(2, 2, 2, 2),
                drop_rate=0.1,
                attn_drop_rate=0.1,
                dropout_path_rate=0.3,
            ),
            64,
            {},
        ),
        (
            "ViT",
            monai(
                "ViT",
                in_channels=1,
                img_size=32,
                patch_size=8,
                hidden_size=24,
                mlp_dim=32,
                num_layers=2,
                num_heads=2,
                classification=True,
                num_classes=3,
                spatial_dims=2,
                dropout_rate=0.1,
            ),
            32,
            {},
        ),
        (
            "DenseNet",
            monai(
                "DenseNet",
                spatial_dims=2,
                in_channels=1,
                out_channels=3,
                init_features=8,
                growth_rate=4,
                block_config=(2, 2),
                dropout_prob=0.2,
            ),
            32,
            {},
        ),
        (
            "EfficientNet, drop connect",
            monai(
                "EfficientNetBN",
                model_name="efficientnet-b0",
                pretrained=False,
                spatial_dims=2,
                in_channels=1,
                num_classes=3,
            ),
            64,
            {},
        ),
    )
]

SEGMENTATION = [
    Entry("segmentation-models-pytorch " + name, "segmentation_models_pytorch", make, images(size))
    for name, make, size in (
        ("Unet, auxiliary classifier with dropout", lambda: Logits(Auxiliary()), 32),
        ("Unet, MiT encoder with drop path", segmentation("Unet", "mit_b0"), 32),
        ("FPN", segmentation("FPN", decoder_dropout=0.3), 32),
        ("DeepLab v3", segmentation("DeepLabV3", decoder_aspp_dropout=0.5, decoder_channels=32), 32),
        ("DeepLab v3+", segmentation("DeepLabV3Plus", decoder_aspp_dropout=0.5, decoder_channels=32), 32),
        ("PSPNet", segmentation("PSPNet", psp_dropout=0.3), 32),
    )
]


class Auxiliary(nn.Module):
    """The classifier that smp's Unet has beside its masks: label maps are not what is scored."""

    def __init__(self) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp

        self.net = smp.Unet("mobilenet_v2", encoder_weights=None, aux_params={"classes": 3, "dropout": 0.4})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)[1]


IMAGES = [*TIMM, *TORCHVISION, *MONAI, *SEGMENTATION]
