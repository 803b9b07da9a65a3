"""What records of other devices gained: trials until a good schedule was met, with and without their order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from codesign.records.store import Records
from codesign.records.warm import WITHIN, Gain


@dataclass(frozen=True)
class Transfer:
    """What one kernel's tuning gained.

    Attributes:
        kernel: its hash.
        target, device: where it was tuned.
        sources: devices and targets whose records gave the order.
        gain: see `Gain`.
    """

    kernel: str
    target: str
    device: str
    sources: tuple[str, ...]
    gain: Gain

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kernel": self.kernel,
            "target": self.target,
            "device": self.device,
            "from": list(self.sources),
            "trials_default": self.gain.default,
            "trials_default_is_exact": self.gain.exact,
            "trials_warm": self.gain.warm,
        }


def transfers(rows: Iterable[tuple[str, str, str, Mapping[str, Any]]]) -> list[Transfer]:
    """Of measurements as (kernel hash, target, device, meta): those whose tuning was told where to begin."""
    found = []
    for kernel, target, device, meta in rows:
        told = meta.get("transfer")
        if told is not None:
            gain = Gain(int(told["default"]), int(told["warm"]), bool(told["exact"]))
            found.append(Transfer(kernel, target, device, tuple(told["from"]), gain))
    return found


def all_transfers(
    records: Records, target: str | None = None, device: str | None = None
) -> list[Transfer]:
    """Of all kernels of a file, or those of a target text and device: by the newest measurement of each key."""
    rows = records._rows(
        "SELECT kernel_hash, target, device, meta FROM measurements m WHERE kind = 'kernel'"
        " AND error IS NULL AND id = (SELECT o.id FROM measurements o WHERE o.key = m.key"
        " AND o.error IS NULL ORDER BY created DESC, id DESC LIMIT 1) ORDER BY id"
    )
    return transfers(
        (k, t, d, json.loads(meta))
        for k, t, d, meta in rows
        if target in (None, t) and device in (None, d)
    )


def summary(found: Iterable[Transfer]) -> str:
    """One line for people."""
    every = list(found)
    if not every:
        return "no kernel was tuned with records of another device, target or version"
    warm = sum(t.gain.warm for t in every)
    default = sum(t.gain.default for t in every)
    bound = "" if all(t.gain.exact for t in every) else "at most "
    kernels = f"{len(every)} kernel{'s' if len(every) > 1 else ''}"
    return (
        f"{kernels} tuned with records from elsewhere: {warm} trials until within"
        f" {WITHIN - 1:.0%} of the best, {bound}{default} in the order of the space"
    )
