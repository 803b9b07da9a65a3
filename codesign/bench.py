"""Measure a bundle on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from codesign.bundle import Bundle, open_bundle
from codesign.device import this_device
from codesign.errors import UserError
from codesign.measure import Rig
from codesign.measurement import Measurement, Protocol
from targets.target import find


@dataclass(frozen=True)
class Benched:
    """A bundle's latency here and now."""

    bundle: Bundle
    measurement: Measurement
    protocol: Protocol

    def as_dict(self) -> dict[str, Any]:
        """For programs; all samples included."""
        return {
            "bundle": str(self.bundle.path),
            "device": this_device(),
            "latency_ms": self.measurement.seconds * 1e3,
            "latency_interval_ms": [self.measurement.lo * 1e3, self.measurement.hi * 1e3],
            "samples_ms": [s * 1e3 for s in self.measurement.samples],
            "other_load": self.measurement.load,
            "protocol": self.protocol.to_json(),
        }

    def table(self) -> Table:
        """For people."""
        m = self.measurement
        table = Table(title=str(self.bundle.path))
        for heading in (
            "median ms",
            "95 % interval",
            "fastest",
            "slowest",
            "threads",
            "other load",
        ):
            table.add_column(heading, justify="right")
        table.add_row(
            f"{m.seconds * 1e3:.3f}", f"{m.lo * 1e3:.3f} to {m.hi * 1e3:.3f}",
            f"{min(m.samples) * 1e3:.3f}", f"{max(m.samples) * 1e3:.3f}",
            str(self.bundle.threads), f"{m.load:.2f} cores",
        )  # fmt: skip
        return table


def bench_bundle(path: Path, repeats: int = 30) -> Benched:
    """Time a bundle end to end in a process of its own.

    Raises:
        UserError: it is no bundle, is damaged, is for another machine, or does not run.
    """
    bundle = open_bundle(path)
    protocol = Protocol(threads=bundle.threads, repeats=repeats)
    with Rig(find("host", bundle.threads), protocol) as rig:
        (measurement,) = rig.bundles([bundle.path])
    if not measurement.ok:
        raise UserError(
            "the bundle does not run here", got=measurement.error or "", next="codesign doctor"
        )
    return Benched(bundle, measurement, protocol)
