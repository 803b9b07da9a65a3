"""Tables of targets and of the doctor's findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from codesign.doctor import Check
from targets.target import KNOWN, Target, host

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def _rows() -> list[tuple[str, Target]]:
    return [("host", host(1)), *KNOWN.items()]


def targets_dict() -> list[dict[str, Any]]:
    """For programs."""
    return [
        {
            "name": name,
            "mcpu": t.mcpu,
            "vector_bits": t.vector_bits,
            "block": t.block,
            "int8_dot_product": bool(t.dot),
            "bf16_dot_product": t.has_bf16,
            "fp16": t.has_fp16,
            "tiles": t.has_tiles,
            "features": sorted(t.features),
            "description": t.description,
        }
        for name, t in _rows()
    ]


def targets_table() -> Table:
    """For people: which products of int8, bfloat16 and float16 have an instruction, and one for tiles (AMX)."""
    table = Table(title="targets")
    for heading in ("name", "processor", "vector", "int8", "bf16", "fp16", "tiles", "description"):
        table.add_column(heading)
    for name, t in _rows():
        has = (bool(t.dot), t.has_bf16, t.has_fp16, t.has_tiles)
        words = ("yes" if there else "no" for there in has)
        table.add_row(name, t.mcpu, f"{t.vector_bits} bit", *words, t.description)
    return table


def doctor_table(checks: Sequence[Check]) -> Table:
    """For people: what is wrong, and the command that mends it."""
    table = Table(title="codesign doctor")
    for heading in ("check", "", "found", "what mends it"):
        table.add_column(heading, overflow="fold")
    for c in checks:
        table.add_row(c.name, f"[{COLOURS[c.status]}]{c.status}", c.found, c.mend)
    return table
