"""Where the user's cache keeps what devices need; the standard library only, for boards."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """Our folder in the user's cache (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "codesign"
