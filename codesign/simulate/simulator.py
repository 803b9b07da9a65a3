"""Evaluates compressed candidates numerically, layer by layer, without compiling each of them.

A solver turns a compressed weight into an *effective dense* one, so every candidate runs on the
same fp32 code: a model is cut into prefix, layers and suffix, each compiled once (equal layers
share their code), and a candidate is a set of other weights, of activation quantisers switched on,
and of layers dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tvm
from numpy.typing import NDArray

from codesign.simulate.classes import SegmentPrograms
from codesign.simulate.moments import gram_of
from codesign.simulate.stream import Array, Environment, RowMask, Stream, Variant, find_row_mask
from passes.model import Model
from passes.sites import Sites
from passes.solve.gram import Gram
from targets.target import Target

DENSE = Variant()
"""The variant of a segment that changes nothing."""


class Simulator:
    """Runs a canonical model and its compressed variants over calibration samples.

    Args:
        model: canonical fp32 model.
        sites: its sites.
        target: this machine; its threads work on different samples at once.
        samples: inputs by name, each of the model's input shapes.
        row_mask: input that marks real tokens with non-zero integers [batch, seq]; rows of padding
            count in no Gram matrix and in no error. Default: ``attention_mask`` if there is one.
        cache_bytes: memory for the dense inputs of linear sites.
    """

    def __init__(
        self,
        model: Model,
        sites: Sites,
        target: Target,
        samples: Sequence[Mapping[str, Array]],
        row_mask: str | None = None,
        cache_bytes: int = 2 << 30,
    ) -> None:
        self._programs = SegmentPrograms(model, sites, target)
        self.segments = self._programs.segments
        self._mask = RowMask(samples, row_mask or find_row_mask(model))
        self._threads = target.threads
        self._pool = ThreadPoolExecutor(target.threads)
        self._dense_rows = _RowCache(cache_bytes)
        self._dense_residuals = _RowCache(cache_bytes // 2)
        start = tuple(
            {s.name: tvm.runtime.tensor(np.asarray(d[s.name], s.dtype)) for s in model.inputs}
            for d in samples
        )
        self._dense = [Stream(0, start)]
        for _ in self.segments:
            self._dense.append(self.advance(self._dense[-1]))

    def index(self, segment: str) -> int:
        """Position of a layer, of ``prefix`` or ``suffix`` in the chain."""
        return [s.name for s in self.segments].index(segment)

    def segment_of(self, linear: str) -> str:
        """Name of the segment that holds a linear site."""
        return next(s.name for s in self.segments if any(x.name == linear for x in s.linears))

    def dense_stream(self, segment: str, samples: int | None = None) -> Stream:
        """The dense model's activations where they enter ``segment``, of the first ``samples``."""
        return self._dense[self.index(segment)].first(samples)

    def advance(self, stream: Stream, variant: Variant = DENSE) -> Stream:
        """The stream one segment on, this segment being changed as told."""
        segment = self.segments[stream.at]
        dense = stream.dense and variant.is_nothing
        if variant.dropped:
            (given,), (wanted,) = segment.part.given, segment.part.wanted
            passed = tuple({**e, wanted: e[given]} for e in stream.samples)
            return Stream(stream.at + 1, passed, dense)
        if not segment.part.bindings:
            return Stream(stream.at + 1, stream.samples, dense)
        step = self._programs.step(stream.at, variant)
        return Stream(stream.at + 1, tuple(self._pool.map(step, stream.samples)), dense)

    def finish(self, stream: Stream, variants: Mapping[str, Variant] | None = None) -> Stream:
        """The stream at the end of the model; ``variants`` by segment, others are dense."""
        for segment in self.segments[stream.at :]:
            stream = self.advance(stream, (variants or {}).get(segment.name, DENSE))
        return stream

    def outputs(self, stream: Stream) -> list[tuple[NDArray[np.generic], ...]]:
        """The model's outputs for each sample, given a stream at any place (dense from there)."""
        names = self._programs.outputs
        done = self.finish(stream).samples
        return [tuple(e[n].numpy() for n in names) for e in done]

    def grams(self, stream: Stream, linear: str, variant: Variant = DENSE) -> Gram:
        """Second moments of a linear site's input over all tokens.

        Args:
            stream: the compressed stream where it enters the segment that holds the site.
            linear: name of the site.
            variant: what was already done to the segment.

        Returns:
            ``xx`` of the compressed inputs, ``cross`` of compressed with dense inputs, means.
        """
        dense = self._dense_inputs(stream, linear)
        if stream.dense and variant.is_nothing:
            return gram_of(self._pool, self._threads, dense, None)
        compressed = self._inputs(stream, linear, variant)
        lacking = self._residual(stream, linear, variant)
        return gram_of(self._pool, self._threads, compressed, dense, lacking)

    def _residual(
        self, stream: Stream, linear: str, variant: Variant
    ) -> list[NDArray[np.float32]] | None:
        """What the stream that the site's output is added to lacks: dense minus compressed."""
        probe = self._programs.residual(stream.at, linear, variant)
        if probe is None:
            return None
        got = self._pool.map(probe, stream.samples)
        wanted = self._dense_residual(stream, linear)
        rows = [w - self._rows(i, g) for i, (w, g) in enumerate(zip(wanted, got, strict=False))]
        # a residual calls for more damping, so one that is nothing must not be there
        return rows if any(r.any() for r in rows) else None

    def _dense_residual(self, stream: Stream, linear: str) -> list[NDArray[np.float32]]:
        rows = self._dense_residuals.get(linear)
        if rows is None:
            probe = self._programs.residual(stream.at, linear, DENSE)
            assert probe is not None
            values = self._pool.map(probe, self._dense[stream.at].samples)
            # copies: a value given to the segment shares memory with the stream
            rows = [self._rows(i, v).copy() for i, v in enumerate(values)]
            self._dense_residuals.put(linear, rows)
        return rows

    def output_error(self, stream: Stream) -> float:
        """Relative squared error of the outputs, the rest of the model being dense.

        ``sum (y - dense)^2 / sum dense^2`` over unmasked rows, averaged over floating outputs.
        """
        reference = self._dense[-1].samples
        done = self.finish(stream).samples
        names = [n for n in self._programs.outputs if "float" in str(reference[0][n].dtype)]
        return float(np.mean([self._error(n, done, reference) for n in names]))

    def sensitivity(self, segment: str, variant: Variant, samples: int | None = 48) -> float:
        """``output_error`` of the model with only this segment changed, on some samples."""
        return self.output_error(self.advance(self.dense_stream(segment, samples), variant))

    def _error(
        self, name: str, done: Sequence[Environment], reference: Sequence[Environment]
    ) -> float:
        error = power = 0.0
        for i, (got, wanted) in enumerate(zip(done, reference, strict=False)):
            y = self._rows(i, got[name]).astype(np.float64)
            dense = self._rows(i, wanted[name]).astype(np.float64)
            error += float(np.square(y - dense).sum())
            power += float(np.square(dense).sum())
        return error / power if power else error

    def _inputs(self, stream: Stream, linear: str, variant: Variant) -> list[NDArray[np.float32]]:
        probe = self._programs.probe(stream.at, linear, variant)
        values = self._pool.map(probe, stream.samples)
        return [self._rows(i, v) for i, v in enumerate(values)]

    def _dense_inputs(self, stream: Stream, linear: str) -> list[NDArray[np.float32]]:
        rows = self._dense_rows.get(linear)
        if rows is None:
            rows = self._inputs(self._dense[stream.at], linear, DENSE)
            self._dense_rows.put(linear, rows)
        return rows[: len(stream.samples)]

    def _rows(self, sample: int, value: tvm.runtime.Tensor) -> NDArray[np.float32]:
        array = np.asarray(np.from_dlpack(value), np.float32)
        return self._mask.rows(sample, array if array.ndim else array.reshape(1, 1))


class _RowCache:
    """Rows by site, the oldest dropped first once they outgrow their memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: dict[str, list[NDArray[np.float32]]] = {}

    def get(self, key: str) -> list[NDArray[np.float32]] | None:
        return self._rows.get(key)

    def put(self, key: str, rows: list[NDArray[np.float32]]) -> None:
        self._rows[key] = rows
        while len(self._rows) > 1 and self._bytes > self._limit:
            del self._rows[next(iter(self._rows))]

    @property
    def _bytes(self) -> int:
        return sum(r.nbytes for rows in self._rows.values() for r in rows)
