"""What a site sees and gives, as the rows [rows, features] of its product.

A linear layer sees the rows of its input that count; a convolution sees windows of an image. Of a large
image a sample of positions stands for all: the moments of windows hardly differ between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from numpy.typing import NDArray

from codesign.simulate.stream import Environment, RowMask
from passes.sites import Linear
from targets.kernels.window import Window

Rows = NDArray[np.float32]

POSITIONS = 256
"""Windows of one sample that are looked at, at most."""


def inputs_of(mask: RowMask, samples: Sequence[Environment], name: str, site: Linear) -> list[Rows]:
    """Rows [rows, in_features] that a site multiplies, for each sample; ``name`` is its input."""
    if site.window is None:
        return mask.rows_of(samples, name)
    return [windows(_array(s[name]), site.window, i) for i, s in enumerate(samples)]


def outputs_of(
    mask: RowMask, samples: Sequence[Environment], name: str, site: Linear
) -> list[Rows]:
    """Rows [rows, out_features] of what a site's output is added to, the same rows as its inputs."""
    if site.window is None:
        return mask.rows_of(samples, name)
    found = []
    for i, sample in enumerate(samples):
        rows = _array(sample[name]).reshape(-1, site.out_features)
        found.append(rows[positions(len(rows), i)])
    return found


def windows(image: NDArray[np.float32], window: Window, seed: int = 0) -> Rows:
    """Windows of images [N, H, W, C] as rows [rows, C * kh * kw], features as in an OIHW weight.

    Args:
        seed: which positions are taken if there are more than ``POSITIONS``.
    """
    top, left, bottom, right = window.padding
    padded = np.pad(image, ((0, 0), (top, bottom), (left, right), (0, 0)))
    spans = np.lib.stride_tricks.sliding_window_view(padded, window.span, axis=(1, 2))
    (down, across), (dh, dw) = window.strides, window.dilation
    taken = spans[:, ::down, ::across, :, ::dh, ::dw]
    at = np.unravel_index(positions(int(np.prod(taken.shape[:3])), seed), taken.shape[:3])
    return np.ascontiguousarray(taken[at]).reshape(len(at[0]), -1)


def positions(count: int, seed: int) -> NDArray[np.intp]:
    """At most ``POSITIONS`` of so many rows, ascending; the same ones for the same seed."""
    if count <= POSITIONS:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, POSITIONS, replace=False))


def _array(value: tvm.runtime.Tensor) -> NDArray[np.float32]:
    return np.asarray(np.from_dlpack(value), np.float32)
