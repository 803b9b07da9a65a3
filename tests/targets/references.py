"""What kernels are compared with: PyTorch and NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from targets.kernels.window import Window

Array = NDArray[Any]


def convolved(x: Array, w: Array, window: Window, groups: int = 1) -> NDArray[np.float64]:
    """The convolution of an image [batch, height, width, channels] with weights [O, C / groups, kh, kw]."""
    top, left, bottom, right = window.padding
    image = torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2)
    image = torch.nn.functional.pad(image, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(
        image,
        torch.from_numpy(w.astype(np.float64)),
        stride=window.strides,
        dilation=window.dilation,
        groups=groups,
    )
    return y.permute(0, 2, 3, 1).numpy()


def attended(
    qkv: Array,
    bias: Array | None,
    heads: int,
    scale: float,
    exp: Callable[[Array], Array] = np.exp,
) -> NDArray[np.float64]:
    """Softmax attention of each head on ``qkv`` [batch, seq, 3 * heads * dim], heads joined again."""
    batch, seq, width = qkv.shape
    parts = qkv.astype(np.float64).reshape(batch, seq, 3, heads, width // 3 // heads)
    q, k, v = parts.transpose(2, 0, 3, 1, 4)
    scores = scale * q @ k.swapaxes(-1, -2) + (0 if bias is None else bias.astype(np.float64))
    e = exp(scores - scores.max(-1, keepdims=True))
    mixed: NDArray[np.float64] = (e / e.sum(-1, keepdims=True)) @ v
    return mixed.transpose(0, 2, 1, 3).reshape(batch, seq, -1)
