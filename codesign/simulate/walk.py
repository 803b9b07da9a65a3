"""How far a segment has been run on a stream, so that only what a change touches is run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from codesign.simulate.classes import SegmentPrograms
from codesign.simulate.stream import Array, Environment, Variant
from passes.formats import Seen
from passes.norm import Frozen


@dataclass(frozen=True)
class _Done:
    """One stage that was run: with which weights, on inputs seen how, and what it left."""

    weights: tuple[Array | None, ...]
    seen: Mapping[str, Seen | Frozen]
    after: tuple[Environment, ...]

    def holds(self, weights: Sequence[Array | None], seen: Mapping[str, Seen | Frozen]) -> bool:
        same = all(a is b for a, b in zip(self.weights, weights, strict=True))
        return same and self.seen == seen


class Walk:
    """A run of one segment over samples, of which each stage can be asked for.

    Args:
        index: of the segment.
        samples: environments where they enter it.
    """

    def __init__(
        self, programs: SegmentPrograms, pool: Executor, index: int, samples: Sequence[Environment]
    ) -> None:
        self._programs = programs
        self._pool = pool
        self._index = index
        self._samples = tuple(samples)
        self._done: list[_Done] = []

    def after(self, stages: int, variant: Variant) -> tuple[Environment, ...]:
        """The environments behind so many stages of the segment, changed as told."""
        self._programs.require(self._index, variant)
        for number in range(stages):
            stage = self._programs.staged[self._index].stages[number]
            weights = [variant.weights.get(w) for w in stage.part.weights]
            names = [x.name for x in stage.switchable]
            seen = {name: variant.seen[name] for name in names if name in variant.seen}
            if number < len(self._done) and self._done[number].holds(weights, seen):
                continue
            del self._done[number:]
            before = self._done[-1].after if self._done else self._samples
            step = self._programs.step(self._index, number, variant)
            after = tuple(self._pool.map(step, before))
            self._done.append(_Done(tuple(weights), seen, after))
        return self._done[stages - 1].after if stages else self._samples
