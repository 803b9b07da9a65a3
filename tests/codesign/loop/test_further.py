"""When further bases are made, and why they are not: kernels and times are made up."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from codesign.candidate import Choice
from codesign.kernels import Kernel
from codesign.loop import further, workshop
from codesign.loop.bases import Base, Bases
from codesign.loop.further import FurtherBases
from codesign.loop.workshop import OutOfTimeError, Workshop
from codesign.progress import Silent
from codesign.station import Station
from passes.errors import PassError
from passes.report import Refusal
from targets.target import find

TIMES = {"dense": 1.0, "channels 0.7": 0.8, "channels 0.45": 0.99}
"""Seconds in kernels of each base; the last one gains next to nothing."""


@dataclass
class Pruner:
    """Makes bases that are nothing but a name."""

    base: Base
    groups: Any
    refusals: list[Refusal]
    target: Any
    progress: Any
    store: Any

    def narrowed(self, share: float) -> Base:
        if share > 0.95:
            raise PassError("these groups cannot make the model that large", got=f"{share}")
        choice = Choice("model", "channels", {"share": share})
        return replace(self.base, model=f"channels {share:g}", choices=(choice,))


@dataclass
class Shop:
    """Knows the time of a base by its name; each takes a step to tune."""

    target: Any = field(default_factory=lambda: find("x86-64-v4"))
    folder: Path = Path("traces")
    progress: Any = field(default_factory=Silent)
    untils: list[float] = field(default_factory=list)
    fuse: bool = True
    until = Workshop.until
    _ends: float = math.inf
    _pace: float = 0.0

    def tune(self, wanted: Iterable[Any], phase: str = "") -> None:
        self.untils.append(self._ends)
        self.progress.step(phase)

    def kernel_seconds(self, counts: Counter[str]) -> float:
        return sum(TIMES[name] for name in counts)


@dataclass
class Tables:
    """A tabler that only notes what it is asked for."""

    workshop: Shop
    enabled: tuple[str, ...] = ("channels",)
    model: str = "hash"
    solver_version: str = "3"
    asked: list[str] = field(default_factory=list)

    def further(self, base: Base, first: Any) -> Any:
        self.asked.append(base.label)
        return base.label


@dataclass
class First:
    base: Base
    space: Any


@dataclass
class Space:
    dense: Counter[str]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    """FurtherBases of a model of which all channels may be pruned."""
    monkeypatch.setattr(further, "prunable", lambda *_: (("a group",), []))
    monkeypatch.setattr(further, "ChannelPruner", Pruner)
    monkeypatch.setattr(
        further,
        "KernelBook",
        lambda fuse: type("Book", (), {"known": {}, "count": lambda _, m, t: [m]})(),
    )

    def made(shares: Iterable[float], deadline: float = math.inf, **settings: Any) -> FurtherBases:
        base: Any = Base("dense", None, None, ())  # type: ignore[arg-type]
        first: Any = First(base, Space(Counter({"dense": 1})))
        tabler: Any = Tables(Shop(), **settings)
        return FurtherBases(Bases([base]), tabler, first, deadline, list(shares))

    return made


def test_bases_come_one_by_one(make: Any) -> None:
    found = make((0.7,))
    assert found.next() == "channels 0.7"
    assert [b.label for b in found.bases.found] == ["", "channels 0.7"]
    assert found.next() is None
    assert not found.vetoes
    assert not found.refusals


def test_a_base_that_is_no_faster_is_vetoed_with_its_figures(make: Any) -> None:
    found = make((0.45, 0.7))
    assert found.next() == "channels 0.7"  # the next one that gains
    ((label, reason),) = found.vetoes
    assert label == "channels 0.45"
    assert reason == "measured 990000 us in kernels, 1000000 us with all channels"
    assert found.tabler.asked == ["channels 0.7"]


def test_what_cannot_be_had_is_refused_with_the_reason(make: Any) -> None:
    found = make((0.99,))
    assert found.next() is None
    (refusal,) = found.refusals
    assert (refusal.site, refusal.op) == ("model", "channels 0.99")
    assert "cannot make the model that large" in refusal.reason


def test_a_base_gets_a_fair_share_of_the_time(make: Any) -> None:
    now = time.monotonic()
    found = make((0.7, 0.45), now + 300)
    assert found.next() == "channels 0.7"
    (ends,) = found.tabler.workshop.untils
    assert ends == pytest.approx(now + 100, abs=1)  # two bases, and the search itself
    assert found.tabler.workshop._ends == math.inf


def test_without_time_no_base_is_begun_again(make: Any) -> None:
    found = make((0.7, 0.45), time.monotonic() - 1)
    assert found.next() is None
    assert [r.op for r in found.refusals] == ["channels 0.7", "channels 0.45"]
    assert all("the same command goes on" in r.reason for r in found.refusals)
    assert isinstance(found.tabler.workshop.progress, Silent)
    assert found.next() is None
    assert len(found.bases.found) == 1


def test_what_its_turn_did_not_come_of_is_told(make: Any) -> None:
    found = make((0.7, 0.45))
    assert [r.op for r in found.refused] == ["channels 0.7", "channels 0.45"]
    assert found.next() == "channels 0.7"
    (late,) = found.refused
    assert late.op == "channels 0.45"
    assert "before its turn" in late.reason
    found.next()
    assert not found.refused


def test_a_model_without_such_groups_is_refused_once(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = Refusal("model", "channels", "no group of channels")
    monkeypatch.setattr(further, "prunable", lambda *_: ((), [why]))
    found = make((0.7, 0.45))
    assert found.next() is None
    assert found.next() is None
    assert found.refused == [why]


def test_nothing_is_looked_for_where_the_pass_is_off(make: Any) -> None:
    found = make((0.7,), enabled=("ffn",))
    assert found.next() is None
    assert not found.refused


def test_kernels_that_would_take_too_long_are_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "tune", lambda kernels, *_, **__: time.sleep(0.02) or {})
    shop = Workshop(Station(None, "", None), None, 1, Path(), Silent())  # type: ignore[arg-type]
    kernels: Any = [Kernel(f"k{i}", None, f"k{i}", 1) for i in range(5)]
    shop.tune(kernels)  # 4 ms each
    with shop.until(time.monotonic() + 0.01), pytest.raises(OutOfTimeError, match="5 kernels"):
        shop.tune(kernels)
    shop.tune(kernels)
