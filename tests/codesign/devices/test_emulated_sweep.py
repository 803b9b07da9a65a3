"""The README's ARM section: a sweep of the digits CNN on an emulated device, from a TOML file to a report."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from codesign.frontier import Frontier
from codesign.report.data import ReportData

if TYPE_CHECKING:
    from codesign.devices.emulator import EmulatedRoot

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 840


@pytest.mark.slow
def test_a_sweep_on_an_emulated_device_ends_in_a_labelled_frontier(
    emulated_root: EmulatedRoot, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "codesign", "sweep", str(ROOT / "examples/digits_arm.toml")]
    command += ["--emulated", "1", "--measurements", "2", "-o", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    frontier = Frontier.read(tmp_path / "run/frontier.json")
    assert frontier.emulated
    assert frontier.points
    notes = "\n".join(ReportData.load(tmp_path / "run").notes)
    assert notes.startswith("EMULATED")
    (difference,) = re.findall(r"largest relative difference (\S+) over", notes)
    assert float(difference) < 0.05
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "ms emulated" in page
    assert not re.search(
        r"\d ms(?! emulated)", re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)
    )
