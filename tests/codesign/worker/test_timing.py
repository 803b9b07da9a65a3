"""What kernels are timed with: random arguments that are valid, and a few values of what came out."""

from __future__ import annotations

import numpy as np

from codesign.worker.timing import _probe, _random
from targets.kernels.linear_bf16 import bf16_bits, bf16_values


def test_uint16_arguments_are_bfloat16_numbers_of_ordinary_size():
    arg = {"shape": [40, 30], "dtype": "uint16", "output": False}
    made = _random(arg, np.random.default_rng(0))
    assert (made.dtype, made.shape) == (np.uint16, (40, 30))
    values = bf16_values(made)
    assert 0.9 < values.std() < 1.1
    assert abs(values.mean()) < 0.2


def test_bfloat16_outputs_start_as_nan_and_are_probed_as_numbers():
    arg = {"shape": [64], "dtype": "uint16", "output": True}
    assert np.isnan(bf16_values(_random(arg, np.random.default_rng(0)))).all()
    made = bf16_bits(np.array([1.5, -0.0, np.nan, np.inf], np.float32))
    assert _probe(made) == [1.5, 0.0, None, None]
