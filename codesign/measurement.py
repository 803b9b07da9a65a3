"""What a measurement is and how it was made: pure data and statistics, no TVM."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

Json = Any
"""A value that ``json.dumps`` takes."""


@dataclass(frozen=True)
class Protocol:
    """How times are taken. Two measurements are comparable only if their protocols are equal.

    Attributes:
        warmup: untimed blocks before the first timed one.
        repeats: timed blocks; each gives one sample, the mean over the calls of the block.
        min_block_ms: a block makes enough calls to last at least this long.
        max_seconds: a slow kernel gets fewer blocks (never below 3) to stay within this time.
        max_spread: unrest of a kernel's time beyond which it is timed again.
        retries: times that this is done at most; the quietest counts.
        threads: threads of the kernels.
        affinity: processors the worker may run on; empty for all.
        reference: what runs between the blocks, so that drift of the machine cancels in ratios.
        cache: ``warm``: every call gets the same arguments, so they are in cache if they fit.
    """

    warmup: int = 1
    repeats: int = 10
    min_block_ms: float = 2.0
    max_seconds: float = 2.0
    max_spread: float = 0.1
    retries: int = 2
    threads: int = 1
    affinity: tuple[int, ...] = ()
    reference: str = "dense 128x384x384 float32"
    cache: str = "warm"

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.warmup < 0 or self.threads < 1 or self.min_block_ms <= 0:
            raise ValueError(f"impossible protocol: {self}")
        if self.cache != "warm":
            raise ValueError(f"unknown cache state {self.cache!r}; allowed: 'warm'")

    def to_json(self) -> dict[str, Json]:
        return asdict(self) | {"affinity": list(self.affinity)}

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Protocol:
        return cls(**{**data, "affinity": tuple(data.get("affinity", ()))})

    @property
    def hash(self) -> str:
        """16 hex digits that name this protocol in the key of a record."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Measurement:
    """The time of one kernel or model, or why there is none.

    Attributes:
        seconds: median over the samples; NaN if ``error`` is set.
        lo, hi: bounds of a 95 % confidence interval of the median, seconds.
        samples: seconds of each block, in the order taken.
        ratio: of kernels the quiet time over that of the reference between; of bundles the median
            over that of the reference in the same sweep; NaN if nothing ran between. Free of drift,
            so the better value for comparisons.
        load: cores that other processes kept busy meanwhile (0.15 = 15 % of one core).
        error: why there is no time; None if there is one.
        meta: whatever else is worth keeping, JSON values only.
    """

    seconds: float = math.nan
    lo: float = math.nan
    hi: float = math.nan
    samples: tuple[float, ...] = ()
    ratio: float = math.nan
    load: float = 0.0
    error: str | None = None
    meta: Mapping[str, Json] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.error is None

    @classmethod
    def failed(cls, error: str, **meta: Json) -> Measurement:
        """A measurement that could not be made; ``error`` says why."""
        return cls(error=error or "unknown error", meta=meta)

    @property
    def quiet(self) -> float:
        """Seconds without what others on the machine add: see `quiet`; NaN without samples."""
        return quiet(self.samples) if self.samples else self.seconds

    @property
    def unrest(self) -> float:
        """What the quiet time is above the fastest block, relative to that."""
        return self.quiet / min(self.samples) - 1 if self.samples else 0.0

    def with_meta(self, **meta: Json) -> Measurement:
        return replace(self, meta={**self.meta, **meta})

    def to_json(self) -> dict[str, Json]:
        """JSON object; NaN becomes null, for JSON has none."""
        data = asdict(self) | {"samples": list(self.samples), "meta": dict(self.meta)}
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in data.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Measurement:
        numbers = {k: math.nan if data.get(k) is None else float(data[k]) for k in _NUMBERS}
        return cls(
            **numbers,
            samples=tuple(data.get("samples", ())),
            load=float(data.get("load") or 0.0),
            error=data.get("error"),
            meta=dict(data.get("meta", {})),
        )


_NUMBERS = ("seconds", "lo", "hi", "ratio")


def summarize(
    samples: Sequence[float], reference: Sequence[float] = (), *, load: float = 0.0, **meta: Json
) -> Measurement:
    """Median, interval and ratio of block times of a kernel.

    Args:
        samples: seconds of each block.
        reference: seconds of the reference before each block and after the last: one more than
            ``samples``, or empty.
        load: see `Measurement`.
        meta: see `Measurement`.
    """
    if not samples or not all(math.isfinite(s) and s > 0 for s in samples):
        return Measurement.failed(f"no valid samples: {list(samples)[:5]}", **meta)
    if reference and len(reference) != len(samples) + 1:
        raise ValueError(f"{len(reference)} reference blocks around {len(samples)} samples")
    lo, hi = median_interval(samples)
    return Measurement(
        seconds=median(samples),
        lo=lo,
        hi=hi,
        samples=tuple(samples),
        ratio=quiet(samples) / quiet(reference) if reference else math.nan,
        load=load,
        meta=meta,
    )


def quiet(samples: Sequence[float]) -> float:
    """The lower quartile of block times: right as long as a quarter of the blocks ran undisturbed.

    Other programs only ever add time, to some blocks a multiple of it, which a median shows as soon as
    they are at work half of the time. The fastest block alone would be a matter of luck.
    """
    return sorted(samples)[len(samples) // 4]


def median(values: Sequence[float]) -> float:
    """Median; the mean of the two middle values of an even number."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Distribution-free confidence interval of the median from order statistics.

    The interval from the k-th smallest to the k-th largest of n values covers the median with
    probability 1 - 2 P(Binomial(n, 1/2) < k) (Conover, Practical Nonparametric Statistics, 3.2).
    With fewer than 6 values no k reaches 95 %: the range of the values is returned.
    """
    ordered = sorted(values)
    n = len(ordered)
    k, below = 1, 0.5**n  # P(Binomial < 1)
    while k < n // 2:
        below += _chance(n, k)  # P(Binomial < k + 1)
        if 1 - 2 * below < level:
            break
        k += 1
    return ordered[k - 1], ordered[n - k]


def _chance(n: int, k: int) -> float:
    """P(Binomial(n, 1/2) = k); by logarithms, for the coefficients of a long run are no floats."""
    coefficient = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(coefficient - n * math.log(2))
