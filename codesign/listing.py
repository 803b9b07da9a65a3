"""Tables of targets and of the doctor's findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from codesign.doctor import Check
from targets.catalog import catalog_targets, library
from targets.description import DeviceDescription
from targets.device_targets import words
from targets.target import KNOWN, PLATFORMS, Target, device_of, host

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}

GROUPS = {"android": "phones", "linux": "boards and servers"}
"""What devices with a system are called together."""


def generic_targets() -> dict[str, Target]:
    """This machine first, then the targets that belong to no device."""
    return {"host": host(1), **KNOWN, **PLATFORMS}


def target_row(name: str, target: Target) -> dict[str, Any]:
    """One target, for programs; products are those of its GPU if it has one."""
    device = device_of(name)
    gpu = target.gpu
    return {
        "name": name,
        "group": GROUPS[device.system] if device else "generic",
        "kind": target.kind,
        "architecture": target.architecture,
        "mcpu": target.mcpu,
        "triple": target.triple,
        "vector_bits": target.vector_bits,
        "block": target.block,
        "int8_dot_product": gpu.int8_dot if gpu else bool(target.dot),
        "bf16_dot_product": target.has_bf16 and gpu is None,
        "fp16": gpu.fp16 if gpu else target.has_fp16,
        "tiles": target.has_tiles,
        "l2_bytes": target.l2_bytes,
        "features": sorted(target.features),
        "gpu": asdict(gpu) if gpu else None,
        "description": target.description,
    }


def targets_dict() -> list[dict[str, Any]]:
    """For programs: every target that has a name."""
    named = {**generic_targets(), **catalog_targets()}
    return [target_row(name, target) for name, target in named.items()]


def targets_tables() -> list[Table]:
    """For people: targets that belong to no device, then the devices, by their systems."""
    devices = library().devices.values()
    return [
        _generic_table(),
        *(_device_table(g, [d for d in devices if d.system == s]) for s, g in GROUPS.items()),
    ]


def _generic_table() -> Table:
    """Which products of int8, bfloat16 and float16 have an instruction, and one for tiles (AMX)."""
    table = Table(title="targets; each may be followed by +feature, as in android-arm64+dotprod")
    for heading in ("name", "processor", "vector", "int8", "bf16", "fp16", "tiles", "description"):
        table.add_column(heading)
    for name, t in generic_targets().items():
        has = _yes(bool(t.dot), t.has_bf16, t.has_fp16, t.has_tiles)
        table.add_row(name, t.mcpu, f"{t.vector_bits} bit", *has, t.description)
    return table


def _device_table(title: str, devices: Sequence[DeviceDescription]) -> Table:
    table = Table(title=f"{title}; codesign targets NAME explains one")
    for heading in ("name", "parts", "cores", "int8", "bf16", "fp16", "GPU"):
        table.add_column(heading, overflow="fold")
    for device in devices:
        chip = device.chip
        target = catalog_targets()[device.name]
        table.add_row(
            device.name,
            " ".join(n.removeprefix(device.name) for n in catalog_targets() if _part(n, device)),
            ", ".join(map(words, chip.clusters)),
            *_yes(bool(target.dot), target.has_bf16, target.has_fp16),
            chip.gpu.name if chip.gpu else "-",
        )
    return table


def _part(name: str, device: DeviceDescription) -> bool:
    return name.startswith(f"{device.name}/")


def _yes(*has: bool) -> list[str]:
    return ["yes" if there else "no" for there in has]


def doctor_table(checks: Sequence[Check]) -> Table:
    """For people: what is wrong, and the command that mends it."""
    table = Table(title="codesign doctor")
    for heading in ("check", "", "found", "what mends it"):
        table.add_column(heading, overflow="fold")
    for c in checks:
        table.add_row(c.name, f"[{COLOURS[c.status]}]{c.status}", c.found, c.mend)
    return table
