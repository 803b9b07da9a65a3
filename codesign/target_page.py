"""What one target is: its processor, its device, and the instruction that each kind of kernel gets."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from codesign.listing import target_row
from targets.description import Cluster, DeviceDescription
from targets.schema import dump
from targets.target import UNKNOWN_L2, Target, device_of, find

UNKNOWN = "unknown"

_X86 = {"vnni": "vpdpbusd"}


def target_dict(name: str) -> dict[str, Any]:
    """For programs: the target, the kernels' instructions, and the device it belongs to or null.

    Raises:
        TargetError: nothing is called so.
    """
    target, device = find(name), device_of(name)
    page = target_row(name, target) | {"kernels": kernels(target), "device": None}
    if device is not None:
        page["device"] = dump(device)
        page["unknown"] = list(device.unknown())
        page["sources"] = list(device.all_sources)
    return page


def target_tables(name: str) -> list[Table]:
    """For people: the same.

    Raises:
        TargetError: nothing is called so.
    """
    target, device = find(name), device_of(name)
    tables = [_facts(name, target, device)]
    if device is not None:
        tables.append(_clusters(device))
        if device.chip.gpu is not None:
            tables.append(_gpu(device))
    tables.append(_pairs("kernels and the instruction of their products", kernels(target)))
    if device is not None:
        tables.append(_list("unknown, and so assumed on the safe side", device.unknown()))
        tables.append(_list("sources", device.all_sources))
    return tables


def kernels(target: Target) -> dict[str, str]:
    """The instruction by the type that a kernel computes in; what is missing is said."""
    if target.gpu is not None:
        gpu = target.gpu
        return {
            "float32": "OpenCL's fma",
            "float16": "OpenCL's fma on half" if gpu.fp16 else "none: no cl_khr_fp16 is known of",
            "int8": "integer dot product of four bytes" if gpu.int8_dot else "none",
        }
    arm = target.architecture == "aarch64"
    return {
        "float32": f"{'fmla' if arm else 'vfmadd'}, {target.lanes} products at once",
        "float16": _float16(target, arm),
        "bfloat16": _bfloat16(target, arm),
        "int8": _int8(target),
    }


def _float16(target: Target, arm: bool) -> str:
    if not target.has_fp16:
        return "none"
    return f"{'fmla' if arm else 'vfmadd'} on half, {2 * target.lanes} products at once"


def _bfloat16(target: Target, arm: bool) -> str:
    if target.has_tiles:
        return "tdpbf16ps, on tiles"
    if target.has_bf16:
        return "bfdot" if arm else "vdpbf16ps"
    return "none: a shift to float32, then fmla" if arm else "none"


def _int8(target: Target) -> str:
    if target.has_tiles:
        return "tdpbusd, on tiles"
    return _X86.get(target.dot, target.dot) or "none"


def _facts(name: str, target: Target, device: DeviceDescription | None) -> Table:
    rows = {
        "what": target.description,
        "device": f"{_called(device)}, {device.system}" if device else None,
        "chip": f"{device.chip.maker} {device.chip.name}" if device else None,
        "code for": f"{target.kind}, {target.mcpu}, {target.triple or target.architecture}",
        "features": " ".join(sorted(target.features)),
        "beyond it": _beyond(target, device) if device else None,
        "registers": f"{target.registers} of {target.vector_bits} bit",
        "L2 of one core": _kib(target.l2_bytes) + _assumed(target, device),
        "L3": _kib(device.chip.l3_bytes) if device else None,
    }
    return _pairs(name, {key: value for key, value in rows.items() if value is not None})


def _called(device: DeviceDescription) -> str:
    """Maker and model; many a model's name begins with its maker's."""
    if device.model.lower().startswith(device.maker.lower()):
        return device.model
    return f"{device.maker} {device.model}"


def _beyond(target: Target, device: DeviceDescription) -> str | None:
    """Features that were added to what the device grants."""
    if added := target.features - set(device.chip.features):
        what = " ".join(sorted(added))
        return f"{what}: nobody tells that it grants this, and it may end a program that uses it"
    return None


def _assumed(target: Target, device: DeviceDescription | None) -> str:
    """Whether nobody told the cache of the core that runs the target's code on the processor."""
    if device is None:
        return ", assumed" if target.l2_bytes == UNKNOWN_L2 else ""
    part = target.name.split("+")[0].removeprefix(f"{device.name}/")
    told = {c.name: c.l2_bytes for c in device.chip.clusters}
    return "" if told.get(part, device.chip.clusters[0].l2_bytes) else ", assumed"


def _clusters(device: DeviceDescription) -> Table:
    table = Table(title="clusters, the biggest first")
    for heading in ("target", "core", "cores", "highest clock", "L1d", "L2"):
        table.add_column(heading)
    for i, c in enumerate(device.chip.clusters):
        clock = f"{c.max_ghz:g} GHz" if c.max_ghz else UNKNOWN
        name = f"{device.name}/{c.name}" if i else device.name
        table.add_row(name, c.core, str(c.count), clock, _kib(c.l1d_bytes), _l2(c))
    return table


def _l2(cluster: Cluster) -> str:
    shared = f", shared by {cluster.l2_shared_by}" if cluster.l2_shared_by > 1 else ""
    return _kib(cluster.l2_bytes) + (shared if cluster.l2_bytes else "")


def _gpu(device: DeviceDescription) -> Table:
    gpu = device.chip.gpu
    assert gpu is not None
    rows = {
        "target": f"{device.name}/gpu",
        "family": f"{gpu.family}, {gpu.generation or UNKNOWN}",
        "work items in a group": _or_unknown(gpu.max_threads),
        "in step": _or_unknown(gpu.subgroup),
        "local memory": _kib(gpu.local_bytes),
        "compute units": _or_unknown(gpu.units),
        "fp16": _or_unknown(gpu.fp16),
        "integer dot product": _or_unknown(gpu.int8_dot),
    }
    return _pairs(gpu.name, rows)


def _or_unknown(value: int | bool | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return UNKNOWN if value is None else str(value)


def _kib(size: int | None) -> str:
    return UNKNOWN if size is None else f"{size / 1024:g} KiB"


def _pairs(title: str, rows: dict[str, str]) -> Table:
    table = Table(title=escape(title), show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, escape(value))
    return table


def _list(title: str, lines: tuple[str, ...]) -> Table:
    table = Table(title=title, show_header=False)
    table.add_column(overflow="fold")
    for line in lines or ("nothing",):
        table.add_row(escape(line))
    return table
