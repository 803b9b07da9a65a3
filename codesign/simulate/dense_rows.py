"""What the sites of the dense model see and give, kept as far as memory allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from threading import RLock
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from codesign.simulate.classes import SegmentPrograms
from codesign.simulate.site_rows import inputs_of, outputs_of
from codesign.simulate.stream import Array, RowMask, Stream, Variant
from codesign.simulate.walk import Walk
from passes.sites import Linear
from passes.solve.blas import one_thread
from targets.kernels.window import Window

Rows = list[NDArray[np.float32]]
"""Rows [rows, features], one array for each sample."""

_Key: TypeAlias = tuple[int, str, Window | None, str]
"""Segment, variable, the windows that a site sees of it, and whether it reads it or is added to it."""

_IN, _OUT = "in", "out"


class DenseRows:
    """Rows of the dense model's sites by segment, the oldest forgotten first.

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
        self._kept: dict[_Key, Rows] = {}
        self._lock = RLock()

    def inputs(self, index: int, site: Linear) -> Rows:
        """Rows that a site of segment ``index`` multiplies."""
        name = self._programs.staged[index].inputs[site.name]
        return self._rows((index, name, site.window, _IN))

    def residuals(self, index: int, site: Linear) -> Rows:
        """Rows of the stream that the site's output is added to."""
        name = self._programs.staged[index].residuals[site.name]
        return self._rows((index, name, site.window, _OUT if site.window else _IN))

    def _rows(self, key: _Key) -> Rows:
        with self._lock:
            if key not in self._kept:
                return self._run(key[0])[key]
            return self._kept[key]

    def sums(self, index: int, site: Linear) -> Rows:
        """What the site gives without its bias, added to the stream: ``X W^T + residual``."""
        with self._lock:
            key = (index, site.name, site.window, "sum")
            if key not in self._kept:
                inputs, residuals = self.inputs(index, site), self.residuals(index, site)
                self._keep({key: self._products(inputs, residuals, site)})
            return self._kept[key]

    @one_thread
    def _products(self, inputs: Rows, residuals: Rows, site: Linear) -> Rows:
        dense = np.asarray(self._weights[site.weight], np.float32)
        weight = np.ascontiguousarray(dense.reshape(len(dense), -1).T)
        return list(self._pool.map(lambda x, r: x @ weight + r, inputs, residuals))

    def _run(self, index: int) -> dict[_Key, Rows]:
        """Run a segment once and keep all that its sites read or are added to."""
        staged = self._programs.staged[index]
        walk = Walk(self._programs, self._pool, index, self._streams[index].samples)
        sites = {site.name: site for site in self._programs.segments[index].linears}
        found: dict[_Key, Rows] = {}
        for name, stages in staged.reach.items():
            site, reached = sites[name], walk.after(stages, Variant())
            key = (index, staged.inputs[name], site.window, _IN)
            if key not in found:
                found[key] = inputs_of(self._mask, reached, key[1], site)
            if name in staged.residuals:
                key = (index, staged.residuals[name], site.window, _OUT if site.window else _IN)
                if key not in found:
                    found[key] = outputs_of(self._mask, reached, key[1], site)
        self._keep(found)
        return found

    def _keep(self, more: Mapping[_Key, Rows]) -> None:
        self._kept |= more
        while len(self._kept) > len(more) and self._bytes > self._limit:
            del self._kept[next(iter(self._kept))]

    @property
    def _bytes(self) -> int:
        return sum(r.nbytes for rows in self._kept.values() for r in rows)
