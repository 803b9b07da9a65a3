"""What flows through the simulator: variants of segments, and activations between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import tvm
from numpy.typing import NDArray

from passes.formats import Seen
from passes.model import Model
from passes.norm import Frozen

Array = NDArray[np.generic]
Environment = Mapping[str, tvm.runtime.Tensor]
"""One sample: the values of graph variables by name."""


LEADER, SIZE = "tokens.leader", "tokens.size"
"""In an environment where tokens were merged: for each token the number of the one that stands for it,
int32 [batch, tokens], and how many each stands for, float32 [batch, tokens]."""


@dataclass(frozen=True)
class Variant:
    """What a candidate does within one segment, in the dense domain.

    Attributes:
        weights: effective weights and biases by name, float32 of the dense shape.
        seen: name of a linear site -> how it sees its input; attention sites in it compute their
            products on 8-bit codes, FFN sites their activation by its replacement, norms as they
            are frozen.
        dropped: the layer hands its input on; nothing else counts then.
    """

    weights: Mapping[str, Array] = field(default_factory=dict)
    seen: Mapping[str, Seen | Frozen] = field(default_factory=dict)
    dropped: bool = False

    @property
    def is_nothing(self) -> bool:
        return not (self.weights or self.seen or self.dropped)


@dataclass(frozen=True, eq=False)
class Stream:
    """Activations of the samples where they enter a segment; equal only to itself.

    Attributes:
        at: index of the segment that comes next; the number of segments at the end.
        samples: one environment for each sample.
        dense: True if nothing before was changed.
    """

    at: int
    samples: tuple[Environment, ...]
    dense: bool = True

    def first(self, count: int | None) -> Stream:
        """A new stream of the first ``count`` samples, of all if None."""
        return Stream(self.at, self.samples[:count], self.dense)


class RowMask:
    """Which rows of an activation are tokens and not padding, nor merged into others.

    The mask is an integer input [batch, seq]; an activation whose leading dimensions are not
    [batch, seq] counts with all its rows.
    """

    def __init__(self, samples: Sequence[Mapping[str, Array]], name: str | None) -> None:
        self._masks = [np.asarray(s[name]) != 0 for s in samples] if name else []

    def rows(
        self, sample: int, value: tvm.runtime.Tensor, left: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """The rows [tokens, channels] of a value [..., channels] that count.

        Args:
            sample: its number.
            value: an activation.
            left: tokens that were not merged into others, [batch, seq]; None for all.
        """
        array = np.asarray(np.from_dlpack(value), np.float32)
        values = array if array.ndim else array.reshape(1, 1)
        mask = self._mask(sample, left)
        if mask is not None and values.shape[: mask.ndim] == mask.shape and values.ndim > mask.ndim:
            values = values[mask]
        return values.reshape(-1, values.shape[-1])

    def rows_of(self, samples: Sequence[Environment], name: str) -> list[NDArray[np.float32]]:
        """The rows of one variable in all samples."""
        return [self.rows(i, sample[name], _left(sample)) for i, sample in enumerate(samples)]

    def averaged(
        self, samples: Sequence[Environment], dense: Sequence[NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        """Rows of the dense model, averaged over the tokens that one of a sample stands for.

        Args:
            samples: tell which tokens were merged.
            dense: the rows of all tokens that count, for each sample.
        """
        return [
            self._averaged(i, sample, rows)
            for i, (sample, rows) in enumerate(zip(samples, dense, strict=False))
        ]

    def _averaged(
        self, number: int, sample: Environment, rows: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        left = _left(sample)
        if left is None:
            return rows
        leader = np.asarray(np.from_dlpack(sample[LEADER]))
        flat = (leader + leader.shape[1] * np.arange(len(leader))[:, None]).ravel()
        counts = self._mask(number, None)
        who = np.arange(flat.size) if counts is None else np.flatnonzero(counts)
        stay = np.flatnonzero(left if counts is None else left & counts)
        share = (flat[who] == stay[:, None]).astype(np.float32)
        return (share / share.sum(axis=1, keepdims=True)) @ rows

    def _mask(self, sample: int, left: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        mask = self._masks[sample] if self._masks else None
        return left if mask is None else mask if left is None else mask & left


def _left(sample: Environment) -> NDArray[np.bool_] | None:
    """The tokens of a sample that were not merged into others; None if none was."""
    if LEADER not in sample:
        return None
    leader = np.asarray(np.from_dlpack(sample[LEADER]))
    return np.asarray(leader == np.arange(leader.shape[1]))


def find_row_mask(model: Model) -> str | None:
    """The input ``attention_mask``, if there is one of integers [batch, seq]."""
    for spec in model.inputs:
        integer = spec.dtype.startswith(("int", "uint", "bool"))
        if spec.name == "attention_mask" and integer and len(spec.shape) == 2:
            return spec.name
    return None
