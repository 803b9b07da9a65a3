"""SqueezeNet 1.1 (Iandola et al., arXiv:1602.07360)."""

from __future__ import annotations

import torch
from torch import nn


class Fire(nn.Module):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.narrow = nn.Conv2d(squeezed, expanded, 1)
        self.wide = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.narrow(x)), torch.relu(self.wide(x))], 1)


def squeezenet(width: float = 1.0, classes: int = 1000) -> nn.Module:
    """SqueezeNet 1.1 for images [N, 3, H, W], 224 x 224 as published; max pools round up."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    def fire(inputs: int, squeezed: int, expanded: int) -> nn.Module:
        return Fire(int(inputs * width), int(squeezed * width), int(expanded * width))

    return nn.Sequential(
        nn.Conv2d(3, int(64 * width), 3, 2),
        nn.ReLU(),
        pool(),
        fire(64, 16, 64),
        fire(128, 16, 64),
        pool(),
        fire(128, 32, 128),
        fire(256, 32, 128),
        pool(),
        fire(256, 48, 192),
        fire(384, 48, 192),
        fire(384, 64, 256),
        fire(512, 64, 256),
        nn.Dropout(),
        nn.Conv2d(int(512 * width), classes, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()
