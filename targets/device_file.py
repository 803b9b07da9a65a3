"""Descriptions of devices as TOML: reading and writing.

A file has any number of tables of three kinds; a device names its chip and a chip its GPU, so that a new
phone with a known chip is a few lines::

    [[device]]
    name = "my-phone"
    maker = "Maker"
    model = "Phone 1"
    system = "android"                  # or linux
    chip = "my-chip"                    # of this file, or of the catalog
    sources = ["where the facts come from"]

    [[chip]]
    name = "my-chip"
    maker = "Maker"
    features = ["dotprod", "fullfp16"]  # what /proc/cpuinfo tells, as LLVM spells it
    l3_bytes = 2097152
    gpu = "Mali-G78"                    # of this file, or of the catalog
    gpu_units = 20
    [[chip.cluster]]                    # the biggest cores first
    name = "big"
    core = "cortex-a76"
    count = 4
    max_ghz = 2.4
    l1d_bytes = 65536
    l2_bytes = 524288
    l2_shared_by = 1

    [[gpu]]
    name = "Mali-G78"
    family = "mali"                     # or adreno, opencl
    generation = "valhall"
    max_threads = 512
    subgroup = 16
    local_bytes = 32768
    units = 20
    fp16 = true
    int8_dot = true

What is not known is left out. Nothing in a file is executed.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from targets.description import (
    Chip,
    Cluster,
    DeviceDescription,
    GpuDescription,
    check,
    check_chip,
    check_gpu,
)
from targets.errors import TargetError
from targets.features import AARCH64, check_known, closed
from targets.schema import dump, load

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

_LARGEST = 1 << 20


@dataclass(frozen=True)
class _Chip:
    """A table ``[[chip]]``: the GPU is a name."""

    name: str
    maker: str
    features: tuple[str, ...]
    clusters: tuple[Cluster, ...] = field(metadata={"json": "cluster"})
    l3_bytes: int | None = None
    gpu: str | None = None
    gpu_units: int | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Device:
    """A table ``[[device]]``: the chip is a name."""

    name: str
    maker: str
    model: str
    system: str
    chip: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class _File:
    devices: tuple[_Device, ...] = field(default=(), metadata={"json": "device"})
    chips: tuple[_Chip, ...] = field(default=(), metadata={"json": "chip"})
    gpus: tuple[GpuDescription, ...] = field(default=(), metadata={"json": "gpu"})


@dataclass(frozen=True)
class Library:
    """Descriptions by their names."""

    devices: Mapping[str, DeviceDescription] = field(default_factory=dict)
    chips: Mapping[str, Chip] = field(default_factory=dict)
    gpus: Mapping[str, GpuDescription] = field(default_factory=dict)


def read_library(texts: Mapping[str, str], known: Library | None = None) -> Library:
    """What the texts of TOML files describe; the key of each is its name in errors.

    Args:
        texts: they may name each other's chips and GPUs.
        known: chips and GPUs that may be named as well; a text's own come first.

    Raises:
        TargetError: not TOML, an unknown key, a wrong type, an impossible value, a name used twice, or a
            chip or GPU that nobody describes.
    """
    known = known or Library()
    files = {where: _parse(text, where) for where, text in texts.items()}
    gpus: dict[str, GpuDescription] = {}
    for where, file in files.items():
        for gpu in file.gpus:
            check_gpu(gpu, where)
            _add(gpus, gpu.name, gpu, f"{where}: GPU")
    all_gpus = {**known.gpus, **gpus}
    chips: dict[str, Chip] = {}
    for where, file in files.items():
        for row in file.chips:
            chip = _chip(row, all_gpus, where)
            check_chip(chip, where)
            _add(chips, chip.name, chip, f"{where}: chip")
    all_chips = {**known.chips, **chips}
    devices: dict[str, DeviceDescription] = {}
    for where, file in files.items():
        for d in file.devices:
            here = _named(d.chip, all_chips, f"{where}: chip of {d.name}")
            made = DeviceDescription(d.name, d.maker, d.model, d.system, here, d.sources)
            _add(devices, d.name, check(made, where), f"{where}: device")
    return Library(devices, chips, gpus)


def read_device(path: Path, known: Library | None = None) -> DeviceDescription:
    """The one device that a file describes.

    Raises:
        TargetError: as `read_library`, and where the file cannot be read or has not one device.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise TargetError(
                "the description of a device is too large", got=str(path), allowed="1 MiB"
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError, ValueError) as error:
        raise TargetError(
            "the description of a device cannot be read",
            got=f"{path}: {error}",
            allowed="a TOML file in UTF-8",
            next="codesign targets lists the devices that need no file",
        ) from error
    devices = read_library({str(path): text}, known).devices
    if len(devices) != 1:
        raise TargetError(
            "the file must describe one device",
            got=f"{path}: {', '.join(devices) or 'none'}",
            allowed="one table [[device]]",
        )
    return next(iter(devices.values()))


def to_toml(device: DeviceDescription) -> str:
    """The file that describes the device, with its chip and its GPU; `read_device` gives it back."""
    chip = device.chip
    named = chip.gpu.name if chip.gpu else None
    head = _Device(
        device.name, device.maker, device.model, device.system, chip.name, device.sources
    )
    lines = _table("device", dump(head))
    row = dump(chip) | {"gpu": named, "cluster": None}
    lines += _table("chip", row)
    for cluster in chip.clusters:
        shared = None if cluster.l2_shared_by == 1 else cluster.l2_shared_by
        lines += _table("chip.cluster", dump(cluster) | {"l2_shared_by": shared})
    if chip.gpu:
        lines += _table("gpu", dump(chip.gpu))
    return "\n".join(lines).lstrip("\n") + "\n"


def _table(name: str, row: Mapping[str, Any]) -> list[str]:
    told = ((key, value) for key, value in row.items() if value is not None and value != [])
    return ["", f"[[{name}]]", *(f"{key} = {_literal(value)}" for key, value in told)]


def _literal(value: Any) -> str:
    """A value as TOML spells it; texts are printable, so JSON's escapes are TOML's."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _parse(text: str, where: str) -> _File:
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number of too many digits
        raise TargetError(
            "the description of a device is not TOML",
            got=f"{where}: {error}",
            allowed="tables [[device]], [[chip]], [[chip.cluster]], [[gpu]]",
            next='texts need quotes: name = "my-phone"',
        ) from error
    _check_brackets(data, where)
    return load(_File, data, where)


def _check_brackets(data: Mapping[str, Any], where: str) -> None:
    """Raise TargetError for the two ways in which a table's heading is mistaken most."""
    chips = data.get("chip")
    clusters = (
        [c.get("cluster") for c in chips if isinstance(c, dict)] if isinstance(chips, list) else []
    )
    named = [(key, data.get(key)) for key in ("device", "chip", "gpu")]
    for key, value in [*named, *(("chip.cluster", c) for c in clusters)]:
        if isinstance(value, dict):
            raise TargetError(
                f"{where}: the heading [{key}] has single brackets", got=f"[{key}]",
                allowed=f"[[{key}]]: a file may have several", next=f"write [[{key}]]",
            )  # fmt: skip
    if "cluster" in data:
        raise TargetError(
            f"{where}: a cluster belongs to a chip", got="a table 'cluster' of its own",
            allowed="[[chip.cluster]] below its [[chip]]", next="write [[chip.cluster]]",
        )  # fmt: skip


def _chip(row: _Chip, gpus: Mapping[str, GpuDescription], where: str) -> Chip:
    check_known(row.features, AARCH64, f"{where}: chip {row.name}: features")
    gpu = None
    if row.gpu is not None:
        gpu = _named(row.gpu, gpus, f"{where}: GPU of {row.name}")
        if row.gpu_units is not None:
            gpu = replace(gpu, units=row.gpu_units)
    elif row.gpu_units is not None:
        raise TargetError(
            f"{where}: chip {row.name} has gpu_units and no gpu", got=str(row.gpu_units)[:80],
            next="name the GPU, or remove gpu_units",
        )  # fmt: skip
    features = tuple(sorted(closed(row.features)))
    return Chip(row.name, row.maker, features, row.clusters, row.l3_bytes, gpu, row.sources)


def _named(name: str, known: Mapping[str, T], where: str) -> T:
    if name not in known:
        raise TargetError(
            f"{where} is not described",
            got=name[:80],
            allowed=_some(known),
            next=_near(name, known) or "describe it in the same file",
        )
    return known[name]


def _add(table: dict[str, T], name: str, value: T, where: str) -> None:
    if name in table:
        raise TargetError(f"{where} is described twice", got=name, next="remove one of them")
    table[name] = value


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else ""


def _some(known: Iterable[str]) -> str:
    return ", ".join(known) or "none is known"
