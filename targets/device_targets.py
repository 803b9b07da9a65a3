"""The compile targets that a device gives: its biggest cores, each other cluster, and its GPU.

What a description leaves open is assumed here, on the safe side: a small second-level cache, a GPU without
fp16 and without integer dot products, with work groups that every OpenCL driver of a phone runs.
"""

from __future__ import annotations

from typing import cast

from targets.description import Cluster, DeviceDescription, GpuDescription
from targets.gpu import Family, Gpu
from targets.target import Target

TRIPLES = {"android": "aarch64-linux-android", "linux": "aarch64-linux-gnu"}

ASSUMED_L2 = 128 * 1024
ASSUMED_THREADS = 256
ASSUMED_SUBGROUP = 1
ASSUMED_LOCAL = 32 * 1024  # the least that OpenCL asks of a full profile


def device_targets(device: DeviceDescription) -> dict[str, Target]:
    """Targets by their names: ``<device>`` for the first cluster, ``<device>/<cluster>``, ``<device>/gpu``.

    All may use the features that the operating system grants on every core, and no others.
    """
    first, *others = device.chip.clusters
    made = {device.name: _on(device, first, device.name)}
    made |= {f"{device.name}/{c.name}": _on(device, c, f"{device.name}/{c.name}") for c in others}
    if device.chip.gpu is not None:
        name = f"{device.name}/gpu"
        made[name] = _on(device, first, name, gpu_of(device.chip.gpu))
    return made


def gpu_of(told: GpuDescription) -> Gpu:
    """The GPU that code is made for, with what is not told assumed."""
    return Gpu(
        name=told.name,
        family=cast(Family, told.family),
        max_threads=told.max_threads or ASSUMED_THREADS,
        subgroup=told.subgroup or ASSUMED_SUBGROUP,
        local_bytes=ASSUMED_LOCAL if told.local_bytes is None else told.local_bytes,
        units=told.units or 0,
        fp16=bool(told.fp16),
        int8_dot=bool(told.int8_dot),
    )


def words(cluster: Cluster) -> str:
    """A cluster in a few words, such as ``4 x cortex-a76 2.4 GHz``."""
    clock = f" {cluster.max_ghz:g} GHz" if cluster.max_ghz else ""
    return f"{cluster.count} x {cluster.core}{clock}"


def _on(device: DeviceDescription, cluster: Cluster, name: str, gpu: Gpu | None = None) -> Target:
    l2 = cluster.l2_bytes // cluster.l2_shared_by if cluster.l2_bytes else ASSUMED_L2
    return Target(
        name=name,
        mcpu=cluster.core,
        features=frozenset(device.chip.features),
        vector_bits=128,
        registers=32,
        description=f"{device.model}: {gpu.name if gpu else words(cluster)}",
        kind="opencl" if gpu else "llvm",
        architecture="aarch64",
        triple=TRIPLES[device.system],
        l2_bytes=l2,
        gpu=gpu,
    )
