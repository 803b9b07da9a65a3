"""What a phone or a board is: clusters of cores, caches, features, GPU, and who says so. Data, and no TVM.

None stands for what nobody told: nothing here is a guess. What code for a device then assumes instead is
written in `targets.device_targets`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import get_args

from targets.cores import CORES
from targets.errors import TargetError
from targets.features import AARCH64, check_known
from targets.gpu import Family

SYSTEMS = ("android", "linux")
FAMILIES: tuple[str, ...] = get_args(Family)

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST = 200


@dataclass(frozen=True)
class Cluster:
    """Equal cores of a chip.

    Attributes:
        name: ``big``, ``middle`` or ``little``, or another; the part of a target's name that selects it.
        core: as LLVM spells it, such as ``cortex-a76``.
        count: how many.
        max_ghz: the highest clock.
        l1d_bytes: first-level data cache of one core.
        l2_bytes: one second-level cache.
        l2_shared_by: cores that share it.
    """

    name: str
    core: str
    count: int
    max_ghz: float | None = None
    l1d_bytes: int | None = None
    l2_bytes: int | None = None
    l2_shared_by: int = 1


@dataclass(frozen=True)
class GpuDescription:
    """A GPU and the limits of its OpenCL driver; see `targets.gpu.Gpu` for the words.

    Attributes:
        generation: of the architecture, such as ``a6xx`` or ``valhall``.
    """

    name: str
    family: str
    generation: str | None = None
    max_threads: int | None = None
    subgroup: int | None = None
    local_bytes: int | None = None
    units: int | None = None
    fp16: bool | None = None
    int8_dot: bool | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chip:
    """A system on a chip.

    Attributes:
        features: what the operating system lets a program use on every core, LLVM's spelling.
        clusters: the biggest cores first.
        l3_bytes: the cache that all cores share.
    """

    name: str
    maker: str
    features: tuple[str, ...]
    clusters: tuple[Cluster, ...] = field(metadata={"json": "cluster"})
    l3_bytes: int | None = None
    gpu: GpuDescription | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeviceDescription:
    """A phone or a board that a person can hold, or a machine that can be rented.

    Attributes:
        name: what a user calls it, such as ``pixel-8``.
        maker: of the device.
        model: the name a person knows it by.
        system: ``android`` or ``linux``.
        sources: where the facts of the device itself come from.
    """

    name: str
    maker: str
    model: str
    system: str
    chip: Chip
    sources: tuple[str, ...] = ()

    @property
    def all_sources(self) -> tuple[str, ...]:
        """Of device, chip and GPU, each once."""
        gpu = self.chip.gpu.sources if self.chip.gpu else ()
        return tuple(dict.fromkeys((*self.sources, *self.chip.sources, *gpu)))

    def unknown(self) -> tuple[str, ...]:
        """What nobody told, in words."""
        return tuple(_unknown(self))


def _unknown(device: DeviceDescription) -> Iterator[str]:
    chip = device.chip
    for words, values in (
        ("highest clock", [c.max_ghz for c in chip.clusters]),
        ("L1d", [c.l1d_bytes for c in chip.clusters]),
        ("L2", [c.l2_bytes for c in chip.clusters]),
    ):
        names = [c.name for c, v in zip(chip.clusters, values, strict=True) if v is None]
        if names:
            yield f"{words} of {', '.join(names)}"
    if chip.l3_bytes is None:
        yield "L3"
    if chip.gpu is not None:
        for words, value in (
            ("work-group size", chip.gpu.max_threads),
            ("width of a subgroup", chip.gpu.subgroup),
            ("local memory", chip.gpu.local_bytes),
            ("compute units", chip.gpu.units),
            ("fp16", chip.gpu.fp16),
            ("integer dot product", chip.gpu.int8_dot),
        ):
            if value is None:
                yield f"{words} of the GPU"


def check(device: DeviceDescription, where: str) -> DeviceDescription:
    """The device, if every value is possible.

    Raises:
        TargetError: naming ``where`` and the value that is not.
    """
    _name(device.name, f"{where}: name of the device")
    for key in ("maker", "model"):
        _text(getattr(device, key), f"{where}: {key}")
    _one_of(device.system, SYSTEMS, f"{where}: system")
    _sources(device.sources, where)
    check_chip(device.chip, where)
    return device


def check_chip(chip: Chip, where: str) -> None:
    """Raise TargetError, naming ``where``, if a value of the chip is impossible."""
    here = f"{where}: chip {chip.name}"
    _name(chip.name, f"{where}: name of the chip")
    _text(chip.maker, f"{here}: maker")
    check_known(chip.features, AARCH64, f"{here}: features")
    _range(chip.l3_bytes, 64 << 10, 1 << 31, f"{here}: l3_bytes")
    _sources(chip.sources, here)
    names = [c.name for c in chip.clusters]
    if not names or len(names) != len(set(names)) or "gpu" in names:
        raise TargetError(
            f"{here}: its clusters need names",
            got=", ".join(names) or "no cluster",
            allowed="at least one, each name once; gpu is the GPU's",
            next="name them big, middle, little",
        )
    for cluster in chip.clusters:
        _cluster(cluster, f"{here}: cluster {cluster.name}")
    if chip.gpu is not None:
        check_gpu(chip.gpu, where)


def check_gpu(gpu: GpuDescription, where: str) -> None:
    """Raise TargetError, naming ``where``, if a value of the GPU is impossible."""
    here = f"{where}: GPU {gpu.name}"
    _text(gpu.name, f"{where}: name of the GPU")
    _one_of(gpu.family, FAMILIES, f"{here}: family")
    if gpu.generation is not None:
        _name(gpu.generation, f"{here}: generation")
    _range(gpu.max_threads, 1, 1 << 16, f"{here}: max_threads")
    _range(gpu.subgroup, 1, 1 << 10, f"{here}: subgroup")
    _range(gpu.local_bytes, 0, 1 << 24, f"{here}: local_bytes")
    _range(gpu.units, 1, 1 << 10, f"{here}: units")
    _sources(gpu.sources, here)


def _cluster(cluster: Cluster, here: str) -> None:
    _name(cluster.name, here)
    check_known([cluster.core], CORES, here, "core")
    _range(cluster.count, 1, 1024, f"{here}: count")
    _range(cluster.max_ghz, 0.1, 10.0, f"{here}: max_ghz")
    _range(cluster.l1d_bytes, 1 << 10, 1 << 20, f"{here}: l1d_bytes")
    _range(cluster.l2_bytes, 16 << 10, 1 << 28, f"{here}: l2_bytes")
    _range(cluster.l2_shared_by, 1, 1024, f"{here}: l2_shared_by")


def _range(value: float | None, least: float, most: float, where: str) -> None:
    if value is not None and not least <= value <= most:
        raise TargetError(
            f"{where} is impossible", got=str(value)[:80], allowed=f"{least} to {most}",
            next="correct it, or leave it out if it is not known",
        )  # fmt: skip


def _one_of(value: str, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(value[:80].lower(), allowed, n=1)
        raise TargetError(
            f"{where} is unknown", got=value[:80], allowed=", ".join(allowed),
            next=f"did you mean '{near[0]}'?" if near else "take one of these",
        )  # fmt: skip


def _name(value: str, where: str) -> None:
    if len(value) > _LONGEST or not _NAME.fullmatch(value):
        raise TargetError(
            f"{where} cannot be a name", got=value[:80] or "an empty text",
            allowed="small letters, digits and single hyphens, such as pixel-8",
            next=f"{slug(value[:80])} would be one",
        )  # fmt: skip


def slug(text: str) -> str:
    """A text as a name that a description may have; ``device`` if nothing of it may."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "device"


def _text(value: str, where: str) -> None:
    if not value.strip() or len(value) > _LONGEST or not value.isprintable():
        raise TargetError(
            f"{where} cannot be used", got=repr(value)[:80],
            allowed=f"a printable text of 1 to {_LONGEST} characters",
        )  # fmt: skip


def _sources(sources: tuple[str, ...], where: str) -> None:
    for source in sources:
        _text(source, f"{where}: a source")
