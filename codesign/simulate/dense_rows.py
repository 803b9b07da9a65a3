"""What the linear layers of the dense model see and give, kept as far as memory allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from threading import RLock

import numpy as np
from numpy.typing import NDArray

from codesign.simulate.classes import SegmentPrograms
from codesign.simulate.stream import Array, RowMask, Stream, Variant
from codesign.simulate.walk import Walk
from passes.sites import Linear
from passes.solve.blas import one_thread

Rows = list[NDArray[np.float32]]
"""Rows [tokens, channels] of one variable, one array for each sample."""


class DenseRows:
    """Rows of the dense model's variables by segment, the oldest forgotten first.

    Args:
        streams: the dense streams where they enter each segment.
        mask: tells the rows that count.
        weights: of the model.
        limit: bytes that may be kept.
    """

    def __init__(
        self,
        programs: SegmentPrograms,
        pool: Executor,
        streams: Sequence[Stream],
        mask: RowMask,
        weights: Mapping[str, Array],
        limit: int,
    ) -> None:
        self._programs = programs
        self._pool = pool
        self._streams = streams
        self._mask = mask
        self._weights = weights
        self._limit = limit
        self._kept: dict[tuple[int, str], Rows] = {}
        self._lock = RLock()

    def rows(self, index: int, name: str) -> Rows:
        """Rows of a variable that a site of segment ``index`` reads or is added to."""
        with self._lock:
            if (index, name) not in self._kept:
                return self._run(index)[name]
            return self._kept[index, name]

    def sums(self, index: int, site: Linear) -> Rows:
        """What the site gives without its bias, added to the stream: ``X W^T + residual``."""
        with self._lock:
            key = (index, f"sum of {site.name}")
            if key not in self._kept:
                staged = self._programs.staged[index]
                inputs = self.rows(index, staged.inputs[site.name])
                residuals = self.rows(index, staged.residuals[site.name])
                self._keep({key: self._products(inputs, residuals, site)})
            return self._kept[key]

    @one_thread
    def _products(self, inputs: Rows, residuals: Rows, site: Linear) -> Rows:
        weight = np.ascontiguousarray(np.asarray(self._weights[site.weight], np.float32).T)
        return list(self._pool.map(lambda x, r: x @ weight + r, inputs, residuals))

    def _run(self, index: int) -> dict[str, Rows]:
        """Run a segment once and keep all that its sites read or are added to."""
        staged = self._programs.staged[index]
        walk = Walk(self._programs, self._pool, index, self._streams[index].samples)
        found: dict[str, Rows] = {}
        for site, stages in staged.reach.items():
            reached = walk.after(stages, Variant())
            for name in (staged.inputs[site], staged.residuals.get(site)):
                if name is not None and name not in found:
                    found[name] = self._mask.rows_of(reached, name)
        self._keep({(index, name): rows for name, rows in found.items()})
        return found

    def _keep(self, more: Mapping[tuple[int, str], Rows]) -> None:
        self._kept |= more
        while len(self._kept) > len(more) and self._bytes > self._limit:
            del self._kept[next(iter(self._kept))]

    @property
    def _bytes(self) -> int:
        return sum(r.nbytes for rows in self._kept.values() for r in rows)
