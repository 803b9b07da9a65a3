"""Where commands print: for people, for programs, and errors."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

out = Console() if sys.stdout.isatty() else Console(width=160)  # files and pipes have no width
err = Console(stderr=True)


def emit(value: Any) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
