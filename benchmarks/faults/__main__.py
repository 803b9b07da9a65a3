"""``python -m benchmarks.faults``: inject every fault, and print what each cost and how it was reported."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.faults.killed_client import client_killed
from benchmarks.faults.scenarios import SCENARIOS, Outcome


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--only", default="", help="scenarios whose name has this")
    parser.add_argument("--json", type=Path, help="write everything there")
    given = parser.parse_args()
    table = Table(title="faults, each injected into a run on devices over RPC")
    for heading in (
        "fault",
        "measured",
        "lost",
        "time lost s",
        "longest wait s",
        "took s",
        "reported",
    ):
        table.add_column(heading, overflow="fold")
    found: dict[str, Outcome] = {}
    every = SCENARIOS | {"client killed and resumed": client_killed}
    for name, scenario in every.items():
        if given.only not in name:
            continue
        began = time.monotonic()
        try:
            found[name] = result = scenario()
        except PermissionError as error:
            table.add_row(name, "", "", "", "", "", f"not run: {error}")
            continue
        said = result.stopped.splitlines() or result.reported
        lost = 0 if result.stopped else result.wanted - result.made
        table.add_row(
            name, f"{result.made} of {result.wanted}", str(lost), f"{result.lost:.1f}",
            f"{result.longest_wait:.1f}", f"{time.monotonic() - began:.1f}",
            "; ".join(said[:2]) or "nothing to report",
        )  # fmt: skip
    Console(width=200).print(table)
    if given.json:
        given.json.write_text(json.dumps({n: asdict(o) for n, o in found.items()}, indent=1))


if __name__ == "__main__":
    main()
