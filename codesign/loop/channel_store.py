"""Which channels were kept and how layers were refitted, on disk: a sweep that goes on solves nothing again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from codesign.frozen import digest

_KEEP, _WEIGHT, _ERROR = "keep:", "weight:", "error"


@dataclass(frozen=True)
class Solution:
    """A model solved for a share of its multiply-adds.

    Attributes:
        keep: numbers of the units that stay, by name of the group.
        weights: of layers refitted, in the dense shapes.
        error: of the outputs against the whole model.
    """

    keep: Mapping[str, NDArray[np.intp]]
    weights: Mapping[str, NDArray[np.float32]]
    error: float


@dataclass(frozen=True)
class ChannelStore:
    """Solutions as files of a folder.

    Attributes:
        model: hash of the whole model.
        solver_version: of solvers and calibration data.
        block: of the target, which widths are multiples of.
    """

    folder: Path
    model: str
    solver_version: str
    block: int

    def find(self, share: float) -> Solution | None:
        """What was solved for a share; None if nothing was, or the file cannot be read."""
        try:
            with np.load(self._path(share)) as file:
                parts = {name: file[name] for name in file.files}
            return Solution(
                {n.removeprefix(_KEEP): a for n, a in parts.items() if n.startswith(_KEEP)},
                {n.removeprefix(_WEIGHT): a for n, a in parts.items() if n.startswith(_WEIGHT)},
                float(parts[_ERROR][0]),
            )
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None  # it is solved again

    def add(self, share: float, solution: Solution) -> None:
        """Store a solution, whole or not at all; where the disk does not allow it, nothing is kept."""
        path = self._path(share)
        part = path.with_suffix(f".{os.getpid()}.part")
        arrays: dict[str, NDArray[np.generic]] = {_ERROR: np.array([solution.error])}
        arrays |= {f"{_KEEP}{n}": a for n, a in solution.keep.items()}
        arrays |= {f"{_WEIGHT}{n}": a for n, a in solution.weights.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            part.replace(path)
        except OSError:
            with suppress(OSError):
                part.unlink()

    def _path(self, share: float) -> Path:
        key = digest([self.model, self.solver_version, self.block, share])
        return self.folder / f"{key[:32]}.npz"
