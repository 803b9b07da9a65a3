"""The sweep file: what to compress, for what, how far, and for how long.

A full example; only ``model``, ``target``, ``quality``, ``calibration`` and ``goal.metric`` are
required:

    [sweep]
    model = "minilm.py:build"            # or encoder.onnx, or encoder.pt2
    target = "host"                      # `codesign targets` lists the known ones
    threads = 2
    device = "pixel"                     # key of devices at a tracker; without it, this machine
    tracker = "127.0.0.1:9190"           # that knows them
    cpus = "4-7"                         # processors of the device to run on; default: all
    quality = "retrieval.py:evaluate"    # predict -> {"mrr": 0.54, "recall@1": 0.42}
    search_quality = "retrieval.py:dev"  # steers the search, on other data; default: quality
    calibration = "retrieval.py:batches" # () -> iterable of input dicts; never held-out data
    passes = ["channels", "tokens", "ffn", "heads", "layers", "bf16", "fp16", "int8", "int8_static",
              "int8_attention", "approximate", "norm", "sparse", "pattern", "low_rank", "tucker",
              "weight_only", "codebook", "fuse"]
    output = "runs/minilm"
    records = "runs/records.sqlite"      # default: beside the output folder, for runs to share
    trials = 16                          # tuning trials for each new kernel
    seed = 0

    [dims]                               # values for dynamic dimensions of the model
    batch = 1
    sequence = 128

    [goal]
    metric = "mrr"                       # the value that the frontier is drawn in
    max_latency_ms = 5.0
    min_quality = 0.50                   # absolute, of the metric
    max_loss = 0.01                      # relative to the uncompressed model
    max_size_mb = 20.0                   # of a bundle's files, 1e6 bytes; asks for size as well
    size = true                          # a frontier of latency, quality and size; default: false

    [budget]                             # whichever ends first; no key: until nothing is new
    minutes = 10.0
    measurements = 40                    # candidates built, measured and evaluated

Paths are relative to the file. Every goal is optional: without one the whole frontier is searched
evenly. Where no goal asks for size, "codebook" is not used: it makes bundles smaller, never faster.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codesign.errors import UserError
from codesign.files import read_text
from codesign.frozen import FrozenMap
from codesign.schema import dump, load
from codesign.where import Where
from targets.target import anchored

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PASSES = (
    "channels",
    "tokens",
    "ffn",
    "heads",
    "layers",
    "bf16",
    "fp16",
    "int8",
    "int8_static",
    "int8_attention",
    "approximate",
    "norm",
    "sparse",
    "pattern",
    "low_rank",
    "tucker",
    "weight_only",
    "codebook",
    "fuse",
)
"""Names of the passes a sweep can enable, in the order in which they are applied."""

FOR_SIZE = ("codebook",)
"""Those that gain nothing but bytes: they are used where a goal asks for size."""


@dataclass(frozen=True)
class Goal:
    """What the user wants of a point; None is no limit.

    Attributes:
        metric: the name, among what the quality function returns, that is maximised.
        max_latency_ms: end-to-end median at most.
        min_quality: the metric at least.
        max_loss: relative loss of the metric at most; 0.01 is one percent.
        max_size_mb: all files of a bundle at most, in 1e6 bytes.
        size: the frontier is of latency, quality and size, not of latency and quality alone.
    """

    metric: str
    max_latency_ms: float | None = None
    min_quality: float | None = None
    max_loss: float | None = None
    max_size_mb: float | None = None
    size: bool = False

    @property
    def sized(self) -> bool:
        """Whether size is an objective: it is asked for, or limited."""
        return self.size or self.max_size_mb is not None


@dataclass(frozen=True)
class Budget:
    """When to stop: minutes of wall time, or candidates measured end to end; None is no limit."""

    minutes: float | None = None
    measurements: int | None = None


@dataclass(frozen=True)
class SweepConfig:
    """A checked sweep file; see the module's docstring. Paths are absolute."""

    model: str
    target: str
    quality: str
    calibration: str
    goal: Goal
    search_quality: str | None = None
    records: str | None = None
    threads: int = 1
    device: str | None = None
    tracker: str | None = None
    cpus: str = ""
    passes: tuple[str, ...] = PASSES
    output: str = "runs/sweep"
    trials: int = 16
    seed: int = 0
    dims: Mapping[str, int] = field(default_factory=FrozenMap)
    budget: Budget = Budget()

    @property
    def where(self) -> Where:
        """What measures."""
        return Where(self.target, self.threads, self.device, self.tracker, self.cpus)

    @property
    def used_passes(self) -> tuple[str, ...]:
        """The enabled passes that gain something that the goal asks for."""
        return tuple(p for p in self.passes if self.goal.sized or p not in FOR_SIZE)

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any], folder: Path) -> SweepConfig:
        """Check the tables of a sweep file, or of the command line's flags.

        Args:
            folder: what relative paths are relative to.
        """
        allowed = ("sweep", "dims", "goal", "budget")
        for name in tables:
            if name not in allowed:
                raise _unknown(f"the sweep file has an unknown table '{name}'", name, allowed)
        sweep = tables.get("sweep", {})
        if not isinstance(sweep, Mapping):
            raise UserError("sweep is not a table", got=repr(sweep), allowed="[sweep]")
        inside = [name for name in allowed[1:] if name in sweep]
        if inside:
            raise UserError(
                f"[{inside[0]}] is a table of its own", got=f"sweep.{inside[0]}",
                allowed=f"[{inside[0]}]",
            )  # fmt: skip
        rest = {name: tables[name] for name in allowed[1:] if name in tables}
        config = load(cls, {**sweep, **rest}, "sweep")
        return config._checked()._anchored(folder)

    def tables(self) -> dict[str, Any]:
        """The same as plain tables, for records and reports."""
        plain = dump(self)
        rest = {name: plain.pop(name) for name in ("dims", "goal", "budget")}
        return {"sweep": plain, **rest}

    def _checked(self) -> SweepConfig:
        """Values that no type can refuse."""
        for name in self.passes:
            if name not in PASSES:
                raise _unknown(f"sweep.passes names an unknown pass '{name}'", name, PASSES)
        positive: dict[str, float | None] = {
            "sweep.threads": self.threads,
            "goal.max_latency_ms": self.goal.max_latency_ms,
            "goal.max_size_mb": self.goal.max_size_mb,
            "budget.minutes": self.budget.minutes,
            "budget.measurements": self.budget.measurements,
            **{f"dims.{name}": size for name, size in self.dims.items()},
        }
        for key, value in positive.items():
            if value is not None and value <= 0:
                raise UserError(f"{key} is not positive", got=f"{value}", allowed="more than 0")
        for key, count in (("sweep.trials", self.trials), ("sweep.seed", self.seed)):
            if count < 0:
                raise UserError(f"{key} is negative", got=f"{count}", allowed="0 or more")
        loss = self.goal.max_loss
        if loss is not None and not 0 <= loss <= 1:
            raise UserError(
                "goal.max_loss is not a share", got=f"{loss}", allowed="0 to 1; 0.01 is one percent"
            )
        functions = {"quality": self.quality, "calibration": self.calibration}
        if self.search_quality is not None:
            functions["search_quality"] = self.search_quality
        for key, reference in functions.items():
            file, colon, name = reference.rpartition(":")
            if not (colon and file.endswith(".py") and name.isidentifier()):
                raise UserError(
                    f"sweep.{key} names no function", got=reference, allowed="file.py:function",
                )  # fmt: skip
        return replace(self, passes=tuple(p for p in PASSES if p in self.passes))

    def _anchored(self, folder: Path) -> SweepConfig:
        return replace(
            self,
            model=_anchor(self.model, folder),
            target=anchored(self.target, folder),
            quality=_anchor(self.quality, folder),
            calibration=_anchor(self.calibration, folder),
            search_quality=self.search_quality and _anchor(self.search_quality, folder),
            output=os.path.normpath(folder / self.output),
            records=self.records and os.path.normpath(folder / self.records),
        )


def load_config(path: str | Path) -> SweepConfig:
    """Read and check a sweep file.

    Raises:
        UserError: no such file, not TOML, an unknown key, a wrong type or an impossible value.
    """
    path = Path(path)
    try:
        data = tomllib.loads(read_text(path, "the sweep file"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            "the sweep file is not TOML",
            got=f"{path}: {error}",
            allowed="tables [sweep], [dims], [goal], [budget]",
            next='texts need quotes: target = "host"',
        ) from error
    return SweepConfig.from_tables(data, path.resolve().parent)


def override(config: SweepConfig, **flags: Any) -> SweepConfig:
    """The config with the flags that are not None in place of its own values.

    A flag is a field of `SweepConfig`, `Goal` or `Budget`. Paths in flags are relative to the
    working folder.

    Raises:
        UserError: a wrong type or an impossible value.
    """
    tables = config.tables()
    for name, value in flags.items():
        if value is None:
            continue
        plain = str(value) if isinstance(value, Path) else value
        inner = next((t for t in ("goal", "budget") if name in tables[t]), "sweep")
        tables[inner][name] = list(plain) if isinstance(plain, tuple) else plain
    return SweepConfig.from_tables(tables, Path.cwd())


def _anchor(reference: str, folder: Path) -> str:
    """``a.py:f`` or ``a.onnx`` with its file part made absolute."""
    file, colon, name = reference.rpartition(":")
    if colon and file.endswith(".py"):
        return f"{folder / file}:{name}"
    return str(folder / reference)


def _unknown(what: str, got: str, allowed: tuple[str, ...]) -> UserError:
    near = difflib.get_close_matches(got, allowed, n=1, cutoff=0.5)
    return UserError(
        what, got=got, allowed=", ".join(allowed),
        next=f"did you mean '{near[0]}'?" if near else "",
    )  # fmt: skip
