"""Merged tokens in a simulation: those that are gone are masked, so that all shapes stay.

What is masked in attention and left out when the sequence is read again has no part in any result:
the numbers of the tokens left are those of the shorter sequence, up to the order of sums.
"""

from __future__ import annotations

import numpy as np
import tvm
from numpy.typing import NDArray

from codesign.simulate.stream import LEADER, SIZE, Environment
from targets.kernels.merge_tokens import merge_reference

LOWEST = float(np.finfo(np.float32).min)


def merged(sample: Environment, x: str, bias: str, keep: int) -> Environment:
    """One sample with ``keep`` tokens left, as `passes.tokens` leaves them.

    Args:
        sample: where it enters a layer.
        x: the variable with the tokens, [batch, tokens, features].
        bias: the variable that attention adds to its scores, [batch, 1, 1, tokens].
        keep: fewer than there are left.
    """
    tokens, added = _copy(sample[x]), _copy(sample[bias])
    batch, seq, _ = tokens.shape
    if LEADER in sample:
        leader, size = _copy(sample[LEADER]), _copy(sample[SIZE])
    else:
        leader = np.tile(np.arange(seq, dtype=np.int32), (batch, 1))
        size = np.ones((batch, seq), np.float32)
    for n in range(batch):
        left = np.nonzero(leader[n] == np.arange(seq))[0]
        found = merge_reference(tokens[n, left], added[n, 0, 0, left], size[n, left], keep)
        kept = left[found.kept]
        tokens[n, kept], size[n, kept] = found.y, found.size
        added[n] = LOWEST
        added[n, 0, 0, kept] = found.bias
        step = np.arange(seq, dtype=np.int32)
        step[left] = kept[found.place]
        leader[n] = step[leader[n]]
    new = {x: tokens, bias: added, LEADER: leader, SIZE: size}
    return {**sample, **{name: tvm.runtime.tensor(array) for name, array in new.items()}}


def given_back(sample: Environment, x: str) -> Environment:
    """One sample behind the last layer: every token has the row of the one that stands for it."""
    rows, leader = _copy(sample[x]), _copy(sample[LEADER])
    all_tokens = np.take_along_axis(rows, leader[..., None].astype(np.intp), axis=1)
    rest = {name: value for name, value in sample.items() if name not in (LEADER, SIZE)}
    return {**rest, x: tvm.runtime.tensor(all_tokens)}


def _copy(value: tvm.runtime.Tensor) -> NDArray[np.generic]:
    return np.array(np.from_dlpack(value))
