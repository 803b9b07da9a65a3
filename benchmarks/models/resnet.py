"""ResNet-18 and ResNet-50 (He et al., arXiv:1512.03385), strides in the 3x3 convolutions."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.models.layers import Classifier, conv_norm


class Residual(nn.Module):
    """relu(x + layers(x)), x through a 1x1 convolution where the shape changes."""

    def __init__(self, layers: nn.Module, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        same = stride == 1 and inputs == outputs
        shortcut = conv_norm(inputs, outputs, 1, stride, activation=None)
        self.layers, self.shortcut = layers, nn.Identity() if same else shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layers(x) + self.shortcut(x))


def _basic(inputs: int, channels: int, stride: int) -> Residual:
    layers = nn.Sequential(
        conv_norm(inputs, channels, 3, stride), conv_norm(channels, channels, activation=None)
    )
    return Residual(layers, inputs, channels, stride)


def _bottleneck(inputs: int, channels: int, stride: int) -> Residual:
    layers = nn.Sequential(
        conv_norm(inputs, channels, 1),
        conv_norm(channels, channels, 3, stride),
        conv_norm(channels, 4 * channels, 1, activation=None),
    )
    return Residual(layers, inputs, 4 * channels, stride)


def _resnet(blocks: tuple[int, ...], wide: bool, width: float, classes: int) -> nn.Module:
    channels = int(64 * width)
    layers: list[nn.Module] = [conv_norm(3, channels, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for stage, count in enumerate(blocks):
        inner = int(64 * width) * 2**stage
        for i in range(count):
            stride = 2 if stage > 0 and i == 0 else 1
            layers.append((_bottleneck if wide else _basic)(channels, inner, stride))
            channels = 4 * inner if wide else inner
    return Classifier(nn.Sequential(*layers), nn.Linear(channels, classes)).eval()


def resnet18(
    width: float = 1.0, classes: int = 1000, blocks: tuple[int, ...] = (2, 2, 2, 2)
) -> nn.Module:
    """ResNet-18 for images [N, 3, H, W], 224 x 224 in the paper."""
    return _resnet(blocks, False, width, classes)


def resnet50(
    width: float = 1.0, classes: int = 1000, blocks: tuple[int, ...] = (3, 4, 6, 3)
) -> nn.Module:
    """ResNet-50 for images [N, 3, H, W], 224 x 224 in the paper."""
    return _resnet(blocks, True, width, classes)
