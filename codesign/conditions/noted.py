"""What was seen around a measurement, put into its meta."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codesign.conditions.drift import flags
from codesign.conditions.energy import Energy
from codesign.conditions.gates import Outcome
from codesign.conditions.state import DeviceState
from codesign.measurement import Measurement


def noted(
    measurement: Measurement,
    reference: Sequence[float] = (),
    before: DeviceState | None = None,
    after: DeviceState | None = None,
    *,
    gate: Outcome | None = None,
    energy: Energy | None = None,
) -> Measurement:
    """The measurement with ``flags`` in its meta, and ``gate``, ``energy`` and ``state`` where known.

    Nothing that stands there already is lost; flags are added to those that are. A failed measurement keeps
    what was seen too: it may say why it failed. What a device does not tell is in ``gate``,
    for it is no sign of anything.

    Args:
        reference: blocks of the reference kernel around the samples, one more than those.
        before, after: states of the device.
        gate: what came of waiting for it.
        energy: of one inference.
    """
    found = list(measurement.meta.get("flags", ()))
    found += flags(measurement.samples, reference, before, after)
    if gate is not None and gate.status == "unfit":
        found.append(f"the device was {gate}")
    meta: dict[str, Any] = {"flags": list(dict.fromkeys(found))} if found else {}
    if gate is not None:
        meta["gate"] = gate.to_json()
    if energy is not None:
        meta["energy"] = energy.to_json()
    states = {"before": before, "after": after}
    told = {name: brief(state) for name, state in states.items() if state is not None}
    if told:
        meta["state"] = told
    return measurement.with_meta(**meta) if meta else measurement


def brief(state: DeviceState) -> dict[str, Any]:
    """What is worth keeping beside a number: the hottest zone, clock shares, load, charge, throttling."""
    shares, battery, hottest = state.clock_shares(), state.battery, state.hottest
    found = {
        "hottest": hottest[0] if hottest else None,
        "temperature_c": hottest[1] if hottest else None,
        "clock_share": round(min(shares.values()), 3) if shares else None,
        "load": state.load,
        "battery_percent": battery.percent if battery else None,
        "battery_status": battery.status if battery else None,
        "throttled": state.throttled,
    }
    return {key: value for key, value in found.items() if value is not None}
