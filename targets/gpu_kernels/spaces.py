"""Which tuning space a kernel has on a GPU."""

from __future__ import annotations

from targets.gpu_kernels.default import default_schedule
from targets.kernels.space import Space, Spaces

_BY_FAMILY: dict[str, Space] = {}

SPACES = Spaces(_BY_FAMILY, default_schedule)
"""For targets of kind ``opencl``."""
