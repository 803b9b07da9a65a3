"""What flows through the simulator: variants of segments, and activations between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import tvm
from numpy.typing import NDArray

from passes.formats import Seen
from passes.model import Model

Array = NDArray[np.generic]
Environment = Mapping[str, tvm.runtime.Tensor]
"""One sample: the values of graph variables by name."""


@dataclass(frozen=True)
class Variant:
    """What a candidate does within one segment, in the dense domain.

    Attributes:
        weights: effective weights and biases by name, float32 of the dense shape.
        seen: name of a linear site -> how it sees its input; attention sites in it compute their
            products on 8-bit codes, FFN sites their activation by its replacement.
        dropped: the layer hands its input on; nothing else counts then.
    """

    weights: Mapping[str, Array] = field(default_factory=dict)
    seen: Mapping[str, Seen] = field(default_factory=dict)
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
    """Which rows of an activation are tokens and not padding.

    The mask is an integer input [batch, seq]; an activation whose leading dimensions are not
    [batch, seq] counts with all its rows.
    """

    def __init__(self, samples: Sequence[Mapping[str, Array]], name: str | None) -> None:
        self._masks = [np.asarray(s[name]) != 0 for s in samples] if name else []

    def rows(self, sample: int, value: tvm.runtime.Tensor) -> NDArray[np.float32]:
        """The rows [tokens, channels] of a value [..., channels] that count."""
        array = np.asarray(np.from_dlpack(value), np.float32)
        values = array if array.ndim else array.reshape(1, 1)
        if self._masks:
            mask = self._masks[sample]
            if values.shape[: mask.ndim] == mask.shape and values.ndim > mask.ndim:
                values = values[mask]
        return values.reshape(-1, values.shape[-1])

    def rows_of(self, samples: Sequence[Environment], name: str) -> list[NDArray[np.float32]]:
        """The rows of one variable in all samples."""
        return [self.rows(i, sample[name]) for i, sample in enumerate(samples)]


def find_row_mask(model: Model) -> str | None:
    """The input ``attention_mask``, if there is one of integers [batch, seq]."""
    for spec in model.inputs:
        integer = spec.dtype.startswith(("int", "uint", "bool"))
        if spec.name == "attention_mask" and integer and len(spec.shape) == 2:
            return spec.name
    return None
