"""frontier.json: the result of a sweep, in names that other programs can rely on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codesign.candidate import Choice
from codesign.errors import UserError
from codesign.files import read_text, write_text
from codesign.frozen import FrozenMap
from codesign.schema import dump, load

OBJECTIVES = ("latency", "quality")
"""What a frontier is in unless more is asked for."""

SIZE = "size"
"""The objective that may be beside them."""


@dataclass(frozen=True)
class Baseline:
    """Something to compare with, measured in the same run.

    Attributes:
        name: such as ``dense`` or ``onnxruntime fp32``.
        latency_ms: median.
        quality: name -> value; empty if it was not evaluated.
    """

    name: str
    latency_ms: float
    quality: Mapping[str, float] = field(default_factory=FrozenMap)


@dataclass(frozen=True)
class Point:
    """One candidate that was built, measured and evaluated.

    Attributes:
        latency_ms: median of the end-to-end runs.
        latency_interval_ms: low and high end of the median's confidence interval.
        predicted_ms: what its kernels' records said before it was built.
        quality: name -> value of the user's quality function.
        size_bytes: all files of the bundle.
        choices: what was done to the model.
        bundle: folder, relative to frontier.json.
    """

    name: str
    latency_ms: float
    latency_interval_ms: tuple[float, float]
    predicted_ms: float
    quality: Mapping[str, float]
    size_bytes: int
    choices: tuple[Choice, ...]
    bundle: str


@dataclass(frozen=True)
class Frontier:
    """The points that do not dominate each other, fastest first, and their baselines.

    Attributes:
        objectives: in what they do not dominate each other: latency, quality, and where it was asked
            for size. Of latency and quality alone some of them may then dominate others.
        emulated: all times are an emulator's and say nothing about any device.
    """

    model: str
    target: str
    threads: int
    protocol: Mapping[str, Any]
    baselines: tuple[Baseline, ...]
    points: tuple[Point, ...]
    objectives: tuple[str, ...] = OBJECTIVES
    emulated: bool = False

    @property
    def ms(self) -> str:
        """The unit of its times, as people should read it."""
        return "ms emulated" if self.emulated else "ms"

    @property
    def us(self) -> str:
        """The same in microseconds."""
        return "µs emulated" if self.emulated else "µs"

    @property
    def sized(self) -> bool:
        """Whether size is an objective."""
        return SIZE in self.objectives

    def write(self, path: str | Path) -> Path:
        """Write frontier.json.

        Raises:
            UserError: the folder cannot be written.
        """
        return write_text(path, json.dumps(dump(self), indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Frontier:
        """Read and check frontier.json; keys of newer versions are ignored.

        Raises:
            UserError: no such file, not JSON, a key missing or of a wrong type.
        """
        return cls.from_json(read_json(path, "frontier.json"))

    @classmethod
    def from_json(cls, data: Any) -> Frontier:
        """Check plain data and build a frontier from it."""
        frontier = load(cls, data, "frontier", extra=True)
        unknown = [name for name in frontier.objectives if name not in (*OBJECTIVES, SIZE)]
        if unknown:
            raise UserError(
                "frontier.objectives names what no point has", got=unknown[0],
                allowed=", ".join((*OBJECTIVES, SIZE)),
            )  # fmt: skip
        for i, point in enumerate(frontier.points):
            low, high = point.latency_interval_ms
            if not 0 < low <= point.latency_ms <= high:
                raise UserError(
                    f"frontier.points[{i}].latency_interval_ms does not hold the median",
                    got=f"{low} to {high} ms, median {point.latency_ms} ms",
                    allowed="0 < low <= latency_ms <= high",
                )
        return frontier


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: no such file, or not JSON.
    """
    try:
        return json.loads(read_text(path, what))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{what} is not JSON", got=f"{path}: {error}", allowed="the file as it was written",
            next="run the sweep again; it goes on from its records",
        ) from error  # fmt: skip
