"""EfficientNet-B0 (Tan and Le, arXiv:1905.11946)."""

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

B0 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""Expansion, kernel, stride of the first, channels, blocks."""


def efficientnet_b0(
    width: float = 1.0, classes: int = 1000, stages: Sequence[tuple[int, int, int, int, int]] = B0
) -> nn.Module:
    """EfficientNet-B0 for images [N, 3, H, W], 224 x 224 in the paper."""
    channels = rounded(32 * width)
    layers: list[nn.Module] = [conv_norm(3, channels, 3, 2, activation=nn.SiLU)]
    for expansion, kernel, stride, base, blocks in stages:
        outputs = rounded(base * width)
        for i in range(blocks):
            step, hidden = (stride if i == 0 else 1), channels * expansion
            squeeze = SqueezeExcitation(hidden, max(1, channels // 4), nn.SiLU, nn.Sigmoid)
            layers.append(
                InvertedResidual(channels, hidden, outputs, kernel, step, nn.SiLU, squeeze)
            )
            channels = outputs
    last = rounded(1280 * width)
    layers.append(conv_norm(channels, last, 1, activation=nn.SiLU))
    return Classifier(nn.Sequential(*layers), nn.Dropout(0.2), nn.Linear(last, classes)).eval()
