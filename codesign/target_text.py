"""The text of a target in records: for which target it is, and how it reads to people."""

from __future__ import annotations

import json
from typing import Any

from codesign.device import target_key
from targets.target import Target


def is_for(text: str, target: Target) -> bool:
    """True if records with this text are of a target, for any number of threads."""
    return _without_threads(text) == _without_threads(target_key(target))


def readable(text: str) -> str:
    """``cortex-a76, 2 threads``; any other text as it is."""
    found = _parsed(text)
    name, threads = found.get("mcpu"), found.get("threads")
    if not isinstance(name, str) or not isinstance(threads, int):
        return text
    kind = "" if found.get("kind") == "llvm" else f"{found.get('kind')} on "
    return f"{kind}{name}, {threads} thread{'s' if threads > 1 else ''}"


def _without_threads(text: str) -> Any:
    found = _parsed(text)
    return {k: v for k, v in found.items() if k != "threads"} if found else text


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
