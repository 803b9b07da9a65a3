"""How long a layer takes at every width, measured with the kernels that a model would really run.

Registers and packed blocks make steps of it: channels between two steps cost as much as the next step.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from tvm import tirx

from codesign.device import this_device
from codesign.errors import UserError
from codesign.files import writable_folder
from codesign.kernels import Kernel, kernel_hash
from codesign.loop.kernel_table import operations
from codesign.loop.workshop import Workshop
from codesign.progress import ProgressReporter, Silent
from codesign.records import Records
from codesign.report.steps import plot
from codesign.staircase import Point, around_edges, edges, evenly, summary, worth_having
from codesign.station import open_station
from codesign.where import Where
from targets.kernels.cache import strip_bytes
from targets.kernels.conv import conv
from targets.kernels.linear import dense
from targets.kernels.window import Window
from targets.target import Target, find

Side = Literal["in", "out"]


@dataclass(frozen=True)
class LinearLayer:
    """A product of [rows, inputs] with a weight [outputs, inputs]."""

    rows: int
    inputs: int
    outputs: int

    def __str__(self) -> str:
        return f"linear {self.rows}x{self.inputs}x{self.outputs}"

    def kernel(self, target: Target) -> tirx.PrimFunc:
        return dense([self.rows], self.inputs, self.outputs, target.block)

    def resized(self, side: Side, width: int) -> LinearLayer:
        return replace(self, **{"inputs" if side == "in" else "outputs": width})


@dataclass(frozen=True)
class ConvLayer:
    """A convolution of an image [1, height, width, inputs], padded to keep its size at stride 1."""

    height: int
    width: int
    inputs: int
    outputs: int
    kernel_size: int = 3
    stride: int = 1

    def __str__(self) -> str:
        size = f"{self.height}x{self.width}x{self.inputs}x{self.outputs}"
        k = self.kernel_size
        return f"conv {size} kernel {k}x{k}" + (f" stride {self.stride}" * (self.stride > 1))

    def kernel(self, target: Target) -> tirx.PrimFunc:
        k, pad = self.kernel_size, self.kernel_size // 2
        window = Window(
            self.height, self.width, self.inputs, (k, k), (self.stride,) * 2, (pad,) * 4, (1, 1)
        )
        return conv(1, window, self.outputs, target.block, strip_bytes(target))

    def resized(self, side: Side, width: int) -> ConvLayer:
        return replace(self, **{"inputs" if side == "in" else "outputs": width})


Layer = LinearLayer | ConvLayer


@dataclass(frozen=True)
class WidthSweep:
    """A layer measured over its widths.

    Attributes:
        points: ascending by width.
        failed: width -> why it has no time.
        rates: GOP/s of each point, a multiply-add being two operations.
        made, reused: trials of this run and of earlier ones.
        load: cores that other processes kept busy, at the worst of all points.
        picture: the plot.
    """

    layer: Layer
    side: Side
    target: Target
    points: tuple[Point, ...]
    failed: dict[int, str]
    rates: dict[int, float]
    made: int
    reused: int
    load: float
    picture: Path

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "layer": str(self.layer),
            "side": self.side,
            "target": self.target.name,
            "threads": self.target.threads,
            "device": this_device(),
            "points": [
                {
                    "width": p.width,
                    "us": p.seconds * 1e6,
                    "interval_us": [p.lo * 1e6, p.hi * 1e6],
                    "ratio": p.ratio,
                    "gops": self.rates.get(p.width),
                }
                for p in self.points
            ],
            "failed": {str(w): why for w, why in self.failed.items()},
            "edges": edges(self.points),
            "worth_having": worth_having(self.points),
            "trials": {"made": self.made, "reused": self.reused},
            "other_load": self.load,
            "plot": str(self.picture),
        }

    def table(self) -> Table:
        """For people: the widths worth having."""
        kept = worth_having(self.points)
        missing = f", {len(self.failed)} widths failed" if self.failed else ""
        table = Table(
            title=f"{self.layer}, {self.side} side on {self.target.name}, "
            f"{self.target.threads} thread(s): {len(kept)} of {len(self.points)} widths worth having",
            caption=f"{summary(self.points)}{missing}; {self.made} trials made, {self.reused} from "
            f"earlier; up to {self.load:.2f} cores of other load; plot: {self.picture}",
        )
        for heading in ("width", "us", "95 % interval", "GOP/s", "x full"):
            table.add_column(heading, justify="right")
        full = self.points[-1].ratio
        for p in reversed(self.points):
            if p.width in kept:
                table.add_row(
                    str(p.width), f"{p.seconds * 1e6:.1f}",
                    f"{p.lo * 1e6:.1f} to {p.hi * 1e6:.1f}",
                    f"{self.rates[p.width]:.0f}" if p.width in self.rates else "",
                    f"{full / p.ratio:.2f}",
                )  # fmt: skip
        return table


def parse_layer(linear: str | None, convolution: str | None, kernel: int, stride: int) -> Layer:
    """The layer that the flags of ``codesign widths`` name.

    Raises:
        UserError: none or both are given, or sizes cannot be read.
    """
    if (linear is None) == (convolution is None):
        raise UserError(
            "one layer is measured",
            got="none" if linear is None else "--linear and --conv",
            allowed="--linear ROWSxINPUTSxOUTPUTS or --conv HEIGHTxWIDTHxINPUTSxOUTPUTS",
            next="codesign widths --linear 128x384x1536",
        )
    if linear is not None:
        rows, inputs, outputs = _sizes("--linear", linear, 3)
        return LinearLayer(rows, inputs, outputs)
    height, width, inputs, outputs = _sizes("--conv", str(convolution), 4)
    return ConvLayer(height, width, inputs, outputs, kernel, stride)


def parse_side(text: str) -> Side:
    """The side that ``--sweep`` names.

    Raises:
        UserError: it is neither.
    """
    sides: dict[str, Side] = {"in": "in", "out": "out"}
    if text in sides:
        return sides[text]
    raise UserError("a side of the layer is swept", got=f"--sweep {text}", allowed="in or out")


def measure_widths(
    layer: Layer,
    side: Side = "out",
    *,
    target: str = "host",
    threads: int = 1,
    trials: int = 2,
    first: int | None = None,
    every: int | None = None,
    output: str | Path = "build/widths",
    progress: ProgressReporter | None = None,
) -> WidthSweep:
    """Tune and time a layer at many widths; what the records beside the output hold is not run again.

    Args:
        layer: at its full width.
        side: which of its channels are varied.
        target: a name of ``codesign targets``.
        threads: of the kernels.
        trials: schedules tried for each width.
        first: the narrowest width; by default a quarter of a vector.
        every: distance of the widths; by default each multiple of the target's block, and a quarter
            of a vector beside it.
        output: folder of the plot, the records and the traces.
        progress: hears of the work.

    Raises:
        UserError: a range without widths, a folder that cannot be written, no width that runs.
    """
    described = find(target, threads)
    near = max(1, described.lanes // 4)
    full = layer.inputs if side == "in" else layer.outputs
    lowest = first or min(near, full)
    if not 1 <= lowest <= full or (every is not None and every < 1):
        raise UserError(
            "there are no such widths",
            got=f"from {lowest} to {full}" + (f" every {every}" if every else ""),
            allowed=f"--first from 1 to {full}, --every at least 1",
        )
    if every:
        widths = evenly(full, every, lowest)
    else:
        widths = around_edges(full, described.block, near, lowest)
    folder = Path(output)
    writable_folder(folder)
    funcs = {w: layer.resized(side, w).kernel(described) for w in widths}
    wanted = {w: Kernel(kernel_hash(f), f, f"{side} {w}", 1) for w, f in funcs.items()}
    progress = progress or Silent()
    with (
        Records(folder / "records.sqlite") as records,
        open_station(Where(target, threads), say=progress.say) as station,
    ):
        workshop = Workshop(station, records, trials, folder / "traces", progress)
        workshop.tune(wanted.values(), f"measure {layer}")
        tuned = {w: workshop.tuned[k.hash] for w, k in wanted.items()}
    good = {w: t.measurement for w, t in tuned.items() if t.measurement.ok}
    failed = {w: t.measurement.error or "" for w, t in tuned.items() if not t.measurement.ok}
    if not good:
        raise UserError(
            "no width could be measured", got=next(iter(failed.values())), next="codesign doctor"
        )
    points = tuple(Point(w, m.seconds, m.lo, m.hi, m.ratio) for w, m in good.items())
    work = {w: operations(funcs[w]) for w in good}
    return WidthSweep(
        layer,
        side,
        described,
        points,
        failed,
        {w: n / good[w].seconds / 1e9 for w, n in work.items() if n},
        sum(t.made for t in tuned.values()),
        sum(t.reused for t in tuned.values()),
        max(m.load for m in good.values()),
        plot(points, _title(layer, side, described), folder / f"{_slug(layer, side)}.png"),
    )


def _title(layer: Layer, side: Side, target: Target) -> str:
    return f"{layer}, {side} side, on {target.name}, {target.threads} thread(s)"


def _slug(layer: Layer, side: Side) -> str:
    return re.sub(r"\W+", "-", f"{layer} {side}")


def _sizes(flag: str, text: str, count: int) -> Sequence[int]:
    parts = text.lower().split("x")
    if len(parts) != count or not all(p.isdigit() and int(p) > 0 for p in parts):
        raise UserError(
            "the sizes of the layer could not be read",
            got=f"{flag} {text}",
            allowed=f"{count} positive whole numbers joined by x",
            next="codesign widths --linear 128x384x1536, or --conv 56x56x64x64",
        )
    return [int(p) for p in parts]
