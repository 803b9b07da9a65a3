"""Names of kernels as people read them."""

from __future__ import annotations

import re


def readable(name: str) -> str:
    """A kernel's name without the marks that make it unique: ``linear_fp16_add`` of ``fused_linear_fp163_add1``."""
    return re.sub(
        r"(int\d|bf16|fp16)?\d*(?=_|$)", lambda found: found[1] or "", name.removeprefix("fused_")
    )
