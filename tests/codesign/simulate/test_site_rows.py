"""Rows of convolutions against PyTorch's unfold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codesign.simulate.site_rows import POSITIONS, positions, windows
from targets.kernels.window import Window

CASES = [
    Window(5, 7, 3, (3, 3), padding=(1, 1, 1, 1)),
    Window(8, 6, 2, (3, 2), (2, 1), (0, 2, 1, 0)),
    Window(9, 9, 4, (2, 3), (1, 2), (1, 0, 1, 0), (2, 3)),
    Window(4, 4, 5, (1, 1), (2, 2)),
]


@pytest.mark.parametrize("window", CASES, ids=str)
def test_windows_times_a_weight_are_the_convolution(window):
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, window.height, window.width, window.channels))
    weight = rng.standard_normal((6, window.channels, *window.kernel))
    top, left, bottom, right = window.padding
    x = torch.nn.functional.pad(
        torch.from_numpy(image.transpose(0, 3, 1, 2)), (left, right, top, bottom)
    )
    strides, dilation = window.strides, window.dilation
    wanted = torch.conv2d(x, torch.from_numpy(weight), stride=strides, dilation=dilation)
    got = windows(image, window) @ weight.reshape(6, -1).T
    np.testing.assert_allclose(got, wanted.permute(0, 2, 3, 1).reshape(-1, 6).numpy(), atol=1e-12)


def test_a_sample_of_many_windows_is_the_same_for_the_same_seed():
    window = Window(40, 40, 1, (3, 3), padding=(1, 1, 1, 1))
    image = np.arange(1600.0).reshape(1, 40, 40, 1)
    taken = windows(image, window, seed=3)
    assert len(taken) == POSITIONS == len(np.unique(positions(1600, 3)))
    np.testing.assert_array_equal(taken[:, 4], positions(1600, 3))  # the centre is the position
    assert not np.array_equal(taken, windows(image, window, seed=4))
