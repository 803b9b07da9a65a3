"""A bundle at work for minutes: what it keeps up, and the energy that one inference takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codesign.conditions import (
    Energy,
    Meter,
    Plan,
    Sustained,
    run_sustained,
    sustained,
)
from codesign.conditions.energy import FEWEST_READINGS
from codesign.errors import UserError
from codesign.measure import Rig
from codesign.worker import Failure

REST_SECONDS = 3.0
"""How long the machine is watched at rest before its energy is measured."""

ENERGY_SECONDS = 5.0
"""How long a bundle works for its energy if no longer run is asked for."""

_REQUEST_SECONDS = 1.0
_DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class LongRun:
    """What a run showed; ``sustained`` is None if it was for the energy alone."""

    energy: Energy
    calls: int
    sustained: Sustained | None = None


def long_run(
    rig: Rig, bundle: Path, seconds_per_call: float, minutes: float, meter: Meter
) -> LongRun:
    """Let a bundle work without a pause.

    Args:
        rig: whose worker runs it.
        seconds_per_call: its latency, from which the length of a request follows.
        minutes: of the run; 0: just as long as its energy needs, or not at all without a meter.
        meter: watched at rest before, and during the run.

    Raises:
        UserError: the bundle stopped running.
    """
    if not minutes and not meter.available:
        return LongRun(meter.stop(0), 0)
    plan = Plan(minutes) if minutes else Plan(ENERGY_SECONDS / 60, burst_seconds=ENERGY_SECONDS)
    requests = _Requests(rig, bundle, seconds_per_call)
    requests.block()  # loaded and warm before it counts
    if meter.available:
        meter.rest(max(REST_SECONDS, FEWEST_READINGS * meter.every_seconds))
    requests.calls = 0
    meter.start()
    samples = run_sustained(requests.block, plan, between=meter.sample)
    energy = meter.stop(requests.calls)
    return LongRun(energy, requests.calls, sustained(samples, plan) if minutes else None)


class _Requests:
    """Requests of about a second to the worker; counts the calls that they made."""

    def __init__(self, rig: Rig, bundle: Path, seconds_per_call: float) -> None:
        self.calls = 0
        self._rig = rig
        self._path = str(bundle)
        block = max(rig.protocol.min_block_ms / 1e3, seconds_per_call)
        sweeps = max(1, math.ceil(_REQUEST_SECONDS / (block + seconds_per_call)))
        self._params: dict[str, Any] = {
            "paths": [self._path],
            "inputs": [],
            "fill": True,
            "protocol": replace(rig.protocol, warmup=0).to_json(),
            "orders": [[0]] * sweeps,
        }

    def block(self) -> list[float]:
        reply = self._rig.ask("time_bundles", self._params, deadline=_DEADLINE_SECONDS)
        if isinstance(reply, Failure):
            raise UserError(
                "the bundle stopped running in a long run", got=str(reply), next="codesign doctor"
            )
        self.calls += int(reply.result["calls"][self._path])
        return [float(s) for s in reply.result["samples"][self._path]]
