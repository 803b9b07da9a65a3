"""What a tuning space is: the ways to schedule one family of kernels, the best guess first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tvm import s_tir, tirx

from targets.target import Target

Apply: TypeAlias = Callable[[s_tir.Schedule], None]
"""Schedules the function that a schedule holds."""

Space: TypeAlias = Callable[[tirx.PrimFunc, Target], Iterator[Apply]]
"""The members of a space for a function on a target."""


@dataclass(frozen=True)
class Spaces:
    """All spaces of one code generator.

    Attributes:
        by_family: space of each family that has one.
        default: the schedule of any other function.
    """

    by_family: Mapping[str, Space]
    default: Callable[[tirx.PrimFunc, Target], s_tir.Schedule]
