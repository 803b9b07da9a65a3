"""Trustworthy numbers on hardware that is hot, busy or fed by a battery: state, gates, long runs, energy."""

from codesign.conditions.affinity import Cluster, choose, clusters, local_clusters
from codesign.conditions.drift import flags
from codesign.conditions.energy import Energy, Reading, energy
from codesign.conditions.gates import (
    BOARD,
    HOST,
    OPEN,
    PHONE,
    Gate,
    Outcome,
    Reason,
    wait_until_fit,
)
from codesign.conditions.meters import (
    Meter,
    MeterError,
    battery_meter,
    command_meter,
    local_meter,
    rapl_meter,
)
from codesign.conditions.noted import noted
from codesign.conditions.state import Battery, DeviceState, read_local_state
from codesign.conditions.sustained import Plan, Sustained, Timed, Timing, run_sustained, sustained

__all__ = [
    "BOARD",
    "HOST",
    "OPEN",
    "PHONE",
    "Battery",
    "Cluster",
    "DeviceState",
    "Energy",
    "Gate",
    "Meter",
    "MeterError",
    "Outcome",
    "Plan",
    "Reading",
    "Reason",
    "Sustained",
    "Timed",
    "Timing",
    "battery_meter",
    "choose",
    "clusters",
    "command_meter",
    "energy",
    "flags",
    "local_clusters",
    "local_meter",
    "noted",
    "rapl_meter",
    "read_local_state",
    "run_sustained",
    "sustained",
    "wait_until_fit",
]
