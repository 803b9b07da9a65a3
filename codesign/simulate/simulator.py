"""Evaluates compressed candidates numerically, layer by layer, without compiling each of them.

A solver turns a compressed weight into an *effective dense* one, so every candidate runs on the
same fp32 code: a model is cut into prefix, layers and suffix, each compiled once (equal layers
share their code), and a candidate is a set of other weights, of activation quantisers switched on,
and of layers dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

import numpy as np
import tvm
from numpy.typing import NDArray

from codesign.simulate.classes import SegmentPrograms
from codesign.simulate.dense_rows import DenseRows
from codesign.simulate.moments import gram_of
from codesign.simulate.segments import SUFFIX
from codesign.simulate.site_rows import inputs_of, outputs_of
from codesign.simulate.stream import (
    LEADER,
    Array,
    Environment,
    RowMask,
    Stream,
    Variant,
    find_row_mask,
)
from codesign.simulate.tokens import given_back, merged
from codesign.simulate.walk import Walk
from passes.errors import PassError
from passes.model import Model
from passes.norm import Frozen, fitted
from passes.sites import Linear, Norm, Sites, encoder_layers
from passes.solve.gram import Gram
from passes.tokens import BIAS, with_bias
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
        reference: the outputs for each sample that output errors are relative to, where the model is
            itself a changed form of another; default: its own.
    """

    def __init__(
        self,
        model: Model,
        sites: Sites,
        target: Target,
        samples: Sequence[Mapping[str, Array]],
        row_mask: str | None = None,
        cache_bytes: int = 2 << 30,
        reference: Sequence[tuple[Array, ...]] | None = None,
    ) -> None:
        model, self._bias = _with_bias(model, sites)
        if self._bias == BIAS:
            zeros = np.zeros(model.inputs[-1].shape, np.float32)
            samples = [{**sample, BIAS: zeros} for sample in samples]
        self._programs = SegmentPrograms(model, sites, target)
        self.segments = self._programs.segments
        self._mask = RowMask(samples, row_mask or find_row_mask(model))
        self._weights = model.weights
        self._threads = target.threads
        self._pool = ThreadPoolExecutor(target.threads)
        self._walks: WeakKeyDictionary[Stream, Walk] = WeakKeyDictionary()
        start = tuple(
            {s.name: tvm.runtime.tensor(np.asarray(d[s.name], s.dtype)) for s in model.inputs}
            for d in samples
        )
        self._streams = [Stream(0, start)]
        for _ in self.segments:
            self._streams.append(self.advance(self._streams[-1].first(None)))
        own = self._streams[-1].samples
        self._reference: Sequence[Environment] = (
            own if reference is None else self._named(reference)
        )
        self._dense = DenseRows(
            self._programs, self._pool, self._streams, self._mask, model.weights, cache_bytes
        )

    def index(self, segment: str) -> int:
        """Position of a layer, of ``prefix`` or ``suffix`` in the chain."""
        return [s.name for s in self.segments].index(segment)

    def segment_of(self, linear: str) -> str:
        """Name of the segment that holds a linear site."""
        return next(s.name for s in self.segments if any(x.name == linear for x in s.linears))

    def dense_stream(self, segment: str, samples: int | None = None) -> Stream:
        """The dense model's activations where they enter ``segment``, of the first ``samples``."""
        return self._streams[self.index(segment)].first(samples)

    def merge(self, stream: Stream, keep: int) -> Stream:
        """The stream with ``keep`` tokens left where it enters a layer; all are back at the suffix.

        Raises:
            PassError: no layer, or one from which no tokens can be merged.
        """
        segment = self.segments[stream.at]
        if not segment.is_section or self._bias is None:
            raise PassError(f"no tokens can be merged at {segment.name}", got=f"{keep} to be kept")
        (x,), bias = segment.part.given, self._bias
        fewer = self._pool.map(lambda sample: merged(sample, x, bias, keep), stream.samples)
        return Stream(stream.at, tuple(fewer), dense=False)

    def advance(self, stream: Stream, variant: Variant = DENSE) -> Stream:
        """The stream one segment on, this segment being changed as told."""
        segment = self.segments[stream.at]
        dense = stream.dense and variant.is_nothing
        if segment.name == SUFFIX and any(LEADER in sample for sample in stream.samples):
            (x,) = segment.part.given
            stream = Stream(stream.at, tuple(given_back(s, x) for s in stream.samples), dense)
        if variant.dropped:
            (given,), (wanted,) = segment.part.given, segment.part.wanted
            passed = tuple({**e, wanted: e[given]} for e in stream.samples)
            return Stream(stream.at + 1, passed, dense)
        stages = len(self._programs.staged[stream.at].stages)
        return Stream(stream.at + 1, self._walk(stream).after(stages, variant), dense)

    def _walk(self, stream: Stream) -> Walk:
        """The run of the segment that the stream enters; it lives as long as the stream."""
        if stream not in self._walks:
            self._walks[stream] = Walk(self._programs, self._pool, stream.at, stream.samples)
        return self._walks[stream]

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
            variant: what was already done to the segment; a quantiser of the site itself does not
                count.

        Returns:
            ``xx`` of the compressed inputs and ``cross`` of compressed with dense inputs, with the
            means; where the stream that the site's output is added to differs from the dense one,
            the outputs that make up for it stand in place of the dense inputs.
        """
        site = self._site(stream.at, linear)
        staged = self._programs.staged[stream.at]
        count = len(stream.samples)
        if stream.dense and variant.is_nothing:
            rows = self._dense.inputs(stream.at, site)
            return gram_of(self._pool, self._threads, rows[:count])
        reached = self._walk(stream).after(staged.reach[linear], variant)
        compressed = inputs_of(self._mask, reached, staged.inputs[linear], site)
        if linear in staged.residuals:
            got = outputs_of(self._mask, reached, staged.residuals[linear], site)
            was = self._mask.averaged(reached, self._dense.residuals(stream.at, site))
            # a residual calls for more damping, so one that is nothing must not be there
            if any((d != g).any() for d, g in zip(was, got, strict=False)):
                sums = self._mask.averaged(reached, self._dense.sums(stream.at, site))
                outputs = [d - g for d, g in zip(sums, got, strict=False)]
                return gram_of(self._pool, self._threads, compressed, outputs=outputs)
        dense = self._mask.averaged(reached, self._dense.inputs(stream.at, site)[:count])
        return gram_of(self._pool, self._threads, compressed, dense)

    def frozen(self, linear: str, norm: Norm) -> Frozen:
        """The affine map closest to the norm behind a linear site, by the inputs of the dense model."""
        index = self.index(self.segment_of(linear))
        site = self._site(index, linear)
        weights = {n: np.asarray(self._weights[n], np.float64) for n in (norm.weight, norm.bias)}
        bias = 0.0 if site.bias is None else np.asarray(self._weights[site.bias], np.float64)
        rows = [r + bias for r in self._dense.sums(index, site)]
        return fitted(rows, weights[norm.weight], weights[norm.bias], norm.epsilon)

    def _site(self, index: int, linear: str) -> Linear:
        segment = self.segments[index]
        for site in segment.linears:
            if site.name == linear:
                return site
        names = ", ".join(site.name for site in segment.linears)
        raise PassError(f"no such site in {segment.name}", got=linear, allowed=names)

    def output_error(self, stream: Stream) -> float:
        """Relative squared error of the outputs, the rest of the model being dense.

        ``sum (y - reference)^2 / sum reference^2`` over unmasked rows, averaged over floating outputs.
        """
        return self._against(stream, self._reference)

    def sensitivity(
        self, segment: str, variant: Variant, samples: int | None = 48, keep: int | None = None
    ) -> float:
        """The error, relative to this model's own outputs, with only this segment changed.

        Args:
            samples: so many are looked at, all if None.
            keep: tokens left from its input on; None for all.
        """
        stream = self.dense_stream(segment, samples)
        stream = stream if keep is None else self.merge(stream, keep)
        return self._against(self.advance(stream, variant), self._streams[-1].samples)

    def dense_outputs(self) -> list[tuple[Array, ...]]:
        """The outputs of the model as it is, for each sample."""
        return self.outputs(self._streams[-1])

    def _named(self, outputs: Sequence[tuple[Array, ...]]) -> list[Environment]:
        names = self._programs.outputs
        return [
            {n: tvm.runtime.tensor(a) for n, a in zip(names, arrays, strict=True)}
            for arrays in outputs
        ]

    def _against(self, stream: Stream, reference: Sequence[Environment]) -> float:
        done = self.finish(stream).samples
        names = [n for n in self._programs.outputs if "float" in str(reference[0][n].dtype)]
        return float(np.mean([self._error(n, done, reference) for n in names]))

    def _error(
        self, name: str, done: Sequence[Environment], reference: Sequence[Environment]
    ) -> float:
        error = power = 0.0
        for i, (got, wanted) in enumerate(zip(done, reference, strict=False)):
            y = self._mask.rows(i, got[name]).astype(np.float64)
            dense = self._mask.rows(i, wanted[name]).astype(np.float64)
            error += float(np.square(y - dense).sum())
            power += float(np.square(dense).sum())
        return error / power if power else error


def _with_bias(model: Model, sites: Sites) -> tuple[Model, str | None]:
    """The model whose attention reads a bias, and its name; None if no tokens can be merged."""
    layers = encoder_layers(sites.layers)
    try:
        return with_bias(model, layers) if layers else (model, None)
    except PassError:
        return model, None
