"""The report of a run: report.html and frontier.png from plain data, without TVM."""

from __future__ import annotations

from pathlib import Path

from codesign.files import write_text
from codesign.report.data import (
    ChangeRow,
    FusionRow,
    KernelRow,
    OptionRow,
    Prediction,
    RecordCounts,
    Refusal,
    ReportData,
    Veto,
)
from codesign.report.page import render
from codesign.report.png import plot

__all__ = [
    "ChangeRow",
    "FusionRow",
    "KernelRow",
    "OptionRow",
    "Prediction",
    "RecordCounts",
    "Refusal",
    "ReportData",
    "Veto",
    "plot",
    "redraw",
    "render",
    "write",
]


def write(data: ReportData, folder: str | Path) -> dict[str, Path]:
    """Write frontier.json, report.json, report.html and frontier.png into a run's folder.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    return {
        "frontier": data.frontier.write(folder / "frontier.json"),
        "data": data.save(folder),
        "html": write_text(folder / "report.html", render(data)),
        "png": plot(data, folder / "frontier.png"),
    }


def redraw(folder: str | Path) -> dict[str, Path]:
    """Draw report.html and frontier.png again from the report.json of a run.

    Raises:
        UserError: the folder holds no run, or cannot be written.
    """
    folder = Path(folder)
    data = ReportData.load(folder)
    return {
        "html": write_text(folder / "report.html", render(data)),
        "png": plot(data, folder / "frontier.png"),
    }
