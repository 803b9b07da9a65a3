"""Checks what `make demo` left: the names that other programs rely on.

Usage: python .ci/check_demo.py runs/demo
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TOP = ("model", "target", "threads", "protocol", "baselines", "points")
BASELINE = ("name", "latency_ms", "quality")
POINT = (
    *("name", "latency_ms", "latency_interval_ms", "predicted_ms", "quality", "size_bytes"),
    *("choices", "bundle"),
)


def problems(run: Path) -> list[str]:
    """Everything that is missing or impossible in a run's folder; empty if all is well."""
    names = ("frontier.json", "report.html", "frontier.png", "bundles")
    found = [f"{name} is missing" for name in names if not (run / name).exists()]
    if "frontier.json is missing" in found:
        return found
    frontier = json.loads((run / "frontier.json").read_text())
    found += _lacks("frontier.json", frontier, TOP)
    if found:
        return found
    for baseline in frontier["baselines"]:
        found += _lacks(f"baseline {baseline.get('name')}", baseline, BASELINE)
    for point in frontier["points"]:
        found += _lacks(f"point {point.get('name')}", point, POINT) or _point(run, point)
    if not frontier["baselines"]:
        found.append("there is no baseline")
    if len(frontier["points"]) < 2:
        found.append(f"a frontier of {len(frontier['points'])} points")
    return found


def _lacks(what: str, table: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    return [f"{what} has no {name}" for name in names if name not in table]


def _point(run: Path, point: dict[str, Any]) -> list[str]:
    low, high = point["latency_interval_ms"]
    checks = {
        "its latency lies outside its interval": low <= point["latency_ms"] <= high,
        "its latency is not positive": point["latency_ms"] > 0,
        "it has no quality": bool(point["quality"]),
        "its bundle is missing": any(
            (base / point["bundle"] / "manifest.json").is_file() for base in (run, Path())
        ),
    }
    return [f"point {point['name']}: {what}" for what, fine in checks.items() if not fine]


def main() -> int:
    """Print the problems, exit code 1 if there are any."""
    found = problems(Path(sys.argv[1]))
    for problem in found:
        print(problem)
    print(f"{sys.argv[1]}: {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
