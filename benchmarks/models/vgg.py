"""VGG-16 (Simonyan and Zisserman, arXiv:1409.1556), without batch norm."""

from __future__ import annotations

from torch import nn

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each stage; a max pool ends it."""


def vgg16(width: float = 1.0, classes: int = 1000, grid: int = 7) -> nn.Module:
    """VGG-16 for images [N, 3, H, W].

    Args:
        width: factor on all channels and neurons.
        classes: outputs.
        grid: side of the last feature map, which the first linear layer reads whole: 7 for images
            of 224 x 224, in general one in 32.
    """
    channels, layers = 3, list[nn.Module]()
    for base, count in STAGES:
        for _ in range(count):
            outputs = int(base * width)
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU()]
            channels = outputs
        layers.append(nn.MaxPool2d(2))
    neurons = int(4096 * width)
    head = [nn.Linear(channels * grid**2, neurons), nn.ReLU(), nn.Dropout()]
    head += [nn.Linear(neurons, neurons), nn.ReLU(), nn.Dropout(), nn.Linear(neurons, classes)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(grid), nn.Flatten(), *head).eval()
