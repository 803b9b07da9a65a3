"""``codesign report``: the page and the picture of a sweep, from what is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codesign.cli.console import emit, out
from codesign.cli.options import JsonFlag

EXAMPLES = "Example: codesign report runs/demo"


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a sweep.")], as_json: JsonFlag = False
) -> None:
    """Draw report.html and frontier.png of a run again from what is stored in it."""
    from codesign.report import redraw

    paths = redraw(run)
    if as_json:
        emit({k: str(v) for k, v in paths.items()})
    else:
        for path in paths.values():
            out.print(f"written: {path}")
