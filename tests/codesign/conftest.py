"""What tests of whole sweeps, and of devices behind a tracker, share."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from benchmarks.faults.farm import Farm
    from codesign.loop.outcome import SweepResult

Samples = list[dict[str, NDArray[Any]]]


@pytest.fixture(scope="session")
def sweep_encoder() -> Callable[..., SweepResult]:
    """Sweeps an encoder with one input; the quality is its agreement with the dense one on samples."""
    import torch

    from codesign.api import sweep_model
    from codesign.progress import Silent

    def sweep(
        module: torch.nn.Module,
        samples: Samples,
        calibration: Samples,
        passes: tuple[str, ...],
        output: Path,
    ) -> SweepResult:
        (name,) = samples[0]
        with torch.no_grad():
            wanted = [module(torch.from_numpy(s[name])).numpy() for s in samples]

        def quality(predict: Any) -> dict[str, float]:
            errors = []
            for sample, right in zip(samples, wanted, strict=True):
                (found,) = predict(sample).values()
                errors.append(np.square(found - right).sum() / np.square(right).sum())
            return {"agreement": 1 - float(np.mean(errors))}

        return sweep_model(
            (module, {name: torch.zeros(samples[0][name].shape)}),
            quality=quality,
            calibration=calibration,
            output=output,
            metric="agreement",
            trials=1,
            measurements=2,
            passes=passes,
            progress=Silent(),
        )

    return sweep


@pytest.fixture(scope="session")
def runs_servers() -> None:
    """Skip where no server of ours measures: another system, or a processor without code of ours."""
    where = (sys.platform, platform.machine())
    if where not in {("linux", "x86_64"), ("linux", "aarch64")}:
        pytest.skip(f"servers of devices measure on x86-64 and AArch64 Linux, not on {where}")


@pytest.fixture(scope="module")
def farm(runs_servers: None) -> Iterator[Farm]:
    """A tracker with one device of this machine's kind, called ``one``."""
    from benchmarks.faults.farm import Farm

    with Farm() as made:
        made.start("one")
        yield made


@pytest.fixture(scope="module")
def mlp() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Three layers of odd widths on batches of three, whose weights are worth keeping on a device."""
    import torch

    torch.manual_seed(5)
    layers = [torch.nn.Linear(37, 96), torch.nn.GELU(), torch.nn.Linear(96, 41), torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers, torch.nn.Linear(41, 7)).eval()
    return module, {"input": torch.zeros(3, 37)}


@pytest.fixture(scope="session")
def cross_linker() -> None:
    """Skip where nothing can be linked for AArch64."""
    from targets.errors import TargetError
    from targets.link import find_linker
    from targets.target import find

    try:
        find_linker(find("aarch64"))
    except TargetError as error:
        pytest.skip(f"{error.got}: {error.next}")


@pytest.fixture(scope="session")
def machine_of() -> Callable[[Path], int]:
    """The processor that a library is for: e_machine of an ELF file (ELF specification, header at byte 18)."""

    def machine_of(library: Path) -> int:
        head = library.read_bytes()[:20]
        assert head[:4] == b"\x7fELF"
        return int.from_bytes(head[18:20], "little")

    return machine_of
