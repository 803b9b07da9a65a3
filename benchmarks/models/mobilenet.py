"""MobileNetV2 (Sandler et al., arXiv:1801.04381) and MobileNetV3 (Howard et al., arXiv:1905.02244)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from benchmarks.models.layers import (
    Classifier,
    InvertedResidual,
    SqueezeExcitation,
    conv_norm,
    rounded,
)

V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks, stride of the first."""

V3_SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)
"""Kernel, hidden and output channels, squeeze-excitation, h-swish, stride."""

V3_LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


def mobilenet_v2(
    width: float = 1.0, classes: int = 1000, stages: Sequence[tuple[int, int, int, int]] = V2
) -> nn.Module:
    """MobileNetV2 for images [N, 3, H, W], 224 x 224 in the paper."""
    channels = rounded(32 * width)
    layers: list[nn.Module] = [conv_norm(3, channels, 3, 2, activation=nn.ReLU6)]
    for expansion, base, blocks, stride in stages:
        outputs = rounded(base * width)
        for i in range(blocks):
            step = stride if i == 0 else 1
            hidden = channels * expansion
            layers.append(InvertedResidual(channels, hidden, outputs, 3, step, nn.ReLU6))
            channels = outputs
    last = rounded(1280 * width)
    layers.append(conv_norm(channels, last, 1, activation=nn.ReLU6))
    return Classifier(nn.Sequential(*layers), nn.Dropout(0.2), nn.Linear(last, classes)).eval()


Block = tuple[int, int, int, bool, bool, int]


def mobilenet_v3(
    width: float = 1.0, classes: int = 1000, blocks: Sequence[Block] = V3_LARGE, head: int = 1280
) -> nn.Module:
    """MobileNetV3 for images [N, 3, H, W], 224 x 224 in the paper.

    Args:
        width: factor on all channels.
        classes: outputs.
        blocks, head: V3_LARGE and 1280 neurons before the classes, or V3_SMALL and 1024.
    """
    channels = rounded(16 * width)
    layers: list[nn.Module] = [conv_norm(3, channels, 3, 2, 1, nn.Hardswish, 1e-3)]
    for kernel, wide, narrow, squeezes, swish, stride in blocks:
        hidden, outputs = rounded(wide * width), rounded(narrow * width)
        squeeze = None
        if squeezes:
            squeeze = SqueezeExcitation(hidden, rounded(hidden / 4), nn.ReLU, nn.Hardsigmoid)
        activation = nn.Hardswish if swish else nn.ReLU
        layers.append(
            InvertedResidual(channels, hidden, outputs, kernel, stride, activation, squeeze, 1e-3)
        )
        channels = outputs
    layers.append(conv_norm(channels, 6 * channels, 1, 1, 1, nn.Hardswish, 1e-3))
    neurons = rounded(head * width)
    first, last = nn.Linear(6 * channels, neurons), nn.Linear(neurons, classes)
    features = nn.Sequential(*layers)
    return Classifier(features, first, nn.Hardswish(), nn.Dropout(0.2), last).eval()
