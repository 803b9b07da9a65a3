"""Tables of targets and of the doctor's findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from codesign.doctor import Check
from targets import gpus
from targets.catalog import catalog_targets, library
from targets.description import DeviceDescription
from targets.device_targets import words
from targets.target import KNOWN, PLATFORMS, Target, device_of, host

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}

_NARROW = 120

GROUPS = {"android": "phones", "linux": "boards and servers"}
"""What devices with a system are called together."""


def generic_targets() -> dict[str, Target]:
    """This machine first, then the targets that belong to no device."""
    return {"host": host(1), **KNOWN, **PLATFORMS, **gpus.GENERIC}


def target_row(name: str, target: Target) -> dict[str, Any]:
    """One target, for programs; products are those of its GPU if it has one."""
    device = device_of(name)
    products = _products(target)
    return {
        "name": name,
        "group": GROUPS[device.system] if device else "generic",
        "kind": target.kind,
        "architecture": target.architecture,
        "mcpu": target.mcpu,
        "triple": target.triple,
        "vector_bits": target.vector_bits,
        "block": target.block,
        "int8_dot_product": products["int8"],
        "bf16_dot_product": products["bf16"],
        "fp16": products["fp16"],
        "tiles": target.has_tiles,
        "l2_bytes": target.l2_bytes,
        "features": sorted(target.features),
        "gpu": asdict(target.gpu) if target.gpu else None,
        "description": target.description,
    }


def targets_dict() -> list[dict[str, Any]]:
    """For programs: every target that has a name."""
    named = {**generic_targets(), **catalog_targets()}
    return [target_row(name, target) for name, target in named.items()]


def targets_tables(width: int = 160) -> list[Table]:
    """For people: targets that belong to no device, then the devices, by their systems.

    Args:
        width: characters of a line; where they are few, what ``codesign targets NAME`` tells too is left out.
    """
    devices = library().devices.values()
    grouped = {g: [d for d in devices if d.system == s] for s, g in GROUPS.items()}
    if width < _NARROW:
        return [_narrow_generic(), *(_narrow_devices(g, ds) for g, ds in grouped.items())]
    return [_generic_table(), *(_device_table(g, ds) for g, ds in grouped.items())]


def _titled(title: str) -> Table:
    """A table of targets. Their names are there to be copied, so they are never cut."""
    table = Table(title=title)
    table.add_column("name", no_wrap=True)
    return table


def _generic_titled() -> Table:
    return _titled("targets; each may be followed by +feature, as in android-arm64+dotprod")


def _device_titled(group: str) -> Table:
    return _titled(f"{group}; codesign targets NAME explains one")


def _generic_table() -> Table:
    """Which products of int8, bfloat16 and float16 have an instruction, and one for tiles (AMX)."""
    table = _generic_titled()
    for heading in ("processor", "vector", "int8", "bf16", "fp16", "tiles", "description"):
        table.add_column(heading)
    for name, t in generic_targets().items():
        has = _yes(*_products(t).values(), t.has_tiles)
        table.add_row(name, t.mcpu, f"{t.vector_bits} bit", *has, t.description)
    return table


def _device_table(group: str, devices: Sequence[DeviceDescription]) -> Table:
    table = _device_titled(group)
    for heading in ("parts", "cores", "int8", "bf16", "fp16", "GPU"):
        table.add_column(heading, overflow="fold")
    for device in devices:
        table.add_row(
            device.name,
            " ".join(n.removeprefix(device.name) for n in catalog_targets() if _part(n, device)),
            ", ".join(map(words, device.chip.clusters)),
            *_yes(*_products(catalog_targets()[device.name]).values()),
            _gpu_name(device),
        )
    return table


def _narrow_generic() -> Table:
    table = _generic_titled()
    for heading in ("products", "description"):
        table.add_column(heading)
    for name, t in generic_targets().items():
        table.add_row(name, _there(t), t.description)
    return table


def _narrow_devices(group: str, devices: Sequence[DeviceDescription]) -> Table:
    table = _device_titled(group)
    for heading in ("cores", "products", "GPU"):
        table.add_column(heading, no_wrap=heading != "products")
    for device in devices:
        cores = "\n".join(map(words, device.chip.clusters))
        table.add_row(device.name, cores, _there(catalog_targets()[device.name]), _gpu_name(device))
    return table


def _products(target: Target) -> dict[str, bool]:
    """Which types a target has an instruction for products of."""
    gpu = target.gpu
    if gpu is not None:
        return {"int8": gpu.int8_dot, "bf16": False, "fp16": gpu.fp16}
    return {"int8": bool(target.dot), "bf16": target.has_bf16, "fp16": target.has_fp16}


def _there(target: Target) -> str:
    return " ".join(name for name, there in _products(target).items() if there) or "-"


def _gpu_name(device: DeviceDescription) -> str:
    return device.chip.gpu.name if device.chip.gpu else "-"


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
