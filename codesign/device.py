"""Which machine measured, and the keys under which its measurements are kept."""

from __future__ import annotations

import os
from dataclasses import asdict

from codesign.frozen import canonical
from codesign.measurement import Protocol
from codesign.records.entries import Kind, MeasureKey
from codesign.versions import versions
from targets.cpu import this_processor
from targets.target import Target


def this_device() -> str:
    """Identity of this machine for records: its processor and how many of them.

    Not its host name: a container gets a new one at every start and is still the same machine.
    """
    return f"{this_processor().model}, {os.cpu_count()} processors"


def target_key(target: Target) -> str:
    """Everything of a target that decides the code made for it, as canonical text."""
    return canonical(
        {
            "kind": target.kind,
            "mcpu": target.mcpu,
            "features": sorted(target.features),
            "block": target.block,
            "threads": target.threads,
            "triple": target.triple,
            "l2_bytes": target.l2_bytes,
            **({} if target.gpu is None else {"gpu": asdict(target.gpu)}),
        }
    )


def measure_key(
    what: str, target: Target, device: str, protocol: Protocol, kind: Kind = "kernel"
) -> MeasureKey:
    """Key of a measurement of ``what`` (the hash of a kernel or bundle, the name of a baseline)."""
    return MeasureKey(
        kernel_hash=what,
        target=target_key(target),
        device=device,
        protocol=protocol.to_json(),
        versions=versions(),
        kind=kind,
    )
