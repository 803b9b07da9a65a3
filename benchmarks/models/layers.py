"""What the mobile CNNs are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def rounded(channels: float, multiple: int = 8) -> int:
    """The next multiple that is not below 90 % of ``channels``, as all MobileNets round widths."""
    near = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return near + multiple if near < 0.9 * channels else near


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] | None = nn.ReLU,
    epsilon: float = 1e-5,
) -> nn.Sequential:
    """Convolution without bias, batch norm, activation; padded to keep the size at stride 1."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    parts: list[nn.Module] = [conv, nn.BatchNorm2d(outputs, eps=epsilon)]
    return nn.Sequential(*parts, *([] if activation is None else [activation()]))


class SqueezeExcitation(nn.Module):
    """Channels scaled by what their means say (Hu et al., arXiv:1709.01507)."""

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: Callable[[], nn.Module],
        gate: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down, self.activation = nn.Conv2d(channels, squeezed, 1), activation()
        self.up, self.gate = nn.Conv2d(squeezed, channels, 1), gate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.up(self.activation(self.down(self.pool(x)))))


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise, (squeeze), 1x1 back; a residual sum where shapes allow it."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        kernel: int,
        stride: int,
        activation: Callable[[], nn.Module],
        squeeze: nn.Module | None = None,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()

        def block(i: int, o: int, k: int, s: int, groups: int, last: bool = False) -> nn.Module:
            return conv_norm(i, o, k, s, groups, None if last else activation, epsilon)

        expand = [] if hidden == inputs else [block(inputs, hidden, 1, 1, 1)]
        depthwise = block(hidden, hidden, kernel, stride, hidden)
        squeezes = [] if squeeze is None else [squeeze]
        project = block(hidden, outputs, 1, 1, 1, last=True)
        self.layers = nn.Sequential(*expand, depthwise, *squeezes, project)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return x + y if self.residual else y


class Classifier(nn.Module):
    """Features, mean over the image, then linear layers."""

    def __init__(self, features: nn.Module, *head: nn.Module) -> None:
        super().__init__()
        self.features, self.pool = features, nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(*head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.pool(self.features(x)), 1))
