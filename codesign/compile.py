"""Compile a model for a target without pruning it: import, lower, tune, build, bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from codesign.bundle import Bundle
from codesign.device import this_device
from codesign.errors import UserError
from codesign.files import writable_folder
from codesign.frontend import Parity
from codesign.loop.kernel_table import kernel_rows
from codesign.loop.workshop import Built, Workshop
from codesign.measurement import Measurement
from codesign.prepare import Prepared, prepare
from codesign.progress import ProgressReporter, Silent
from codesign.records import Records
from codesign.report import KernelRow
from codesign.schema import dump
from codesign.station import Station, open_station
from codesign.where import Where
from passes.bf16 import Bf16, lacks_bf16
from passes.codebook import Codebook, CodebookConfig
from passes.codebook import choices as codebook_choices
from passes.format_linear import format_linears
from passes.formats import Solved
from passes.fp16 import Fp16, lacks_fp16
from passes.half import Half, HalfConfig, offered
from passes.int8 import Int8
from passes.int8 import choices as int8_choices
from passes.int8_attention import choices as int8_attention_choices
from passes.int8_attention import quantize_attention
from passes.integers import choices as integer_choices
from passes.model import Model
from passes.solve.codebook import cluster
from passes.solve.gptq import quantize_rows
from passes.solve.values import Values
from targets.target import Target


@dataclass(frozen=True)
class Compiled:
    """A compiled model.

    Attributes:
        parity: how close the import is to the original.
        latency: end to end, in a process of its own; without a time if nothing here runs it.
        measured_on: the device that did; "" if none.
        kernels: what it runs, most expensive first.
        fusions: what was decided for each chain of operators that may be one kernel or several.
    """

    bundle: Bundle
    parity: Parity
    latency: Measurement
    kernels: tuple[KernelRow, ...]
    fusions: tuple[Mapping[str, Any], ...] = ()
    measured_on: str = ""

    @property
    def latency_text(self) -> str:
        """Milliseconds with their interval, or why there are none."""
        if not self.latency.ok:
            return str(self.latency.error)
        found = self.latency
        style = ".2f" if found.seconds >= 1e-3 else ".3g"
        said, lo, hi = (f"{s * 1e3:{style}}" for s in (found.seconds, found.lo, found.hi))
        emulated = " emulated" if found.meta.get("emulated") else ""
        return f"{said} ms ({lo} to {hi}){emulated}"

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "bundle": str(self.bundle.path),
            "parity": {"relative": self.parity.relative, "original": self.parity.original},
            "target": self.bundle.manifest["target"]["name"],
            "latency_ms": self.latency.seconds * 1e3 if self.latency.ok else None,
            "latency_interval_ms": [self.latency.lo * 1e3, self.latency.hi * 1e3]
            if self.latency.ok
            else None,
            "measured_on": self.measured_on,
            "emulated": bool(self.latency.meta.get("emulated")),
            "size_bytes": self.bundle.size_bytes,
            "kernels": [dump(row) for row in self.kernels],
            "fusions": [dict(choice) for choice in self.fusions],
        }

    def table(self) -> Table:
        """For people."""
        here = not self.measured_on or self.measured_on == this_device()
        where = "" if here else f" on {self.measured_on.removesuffix(', emulated')}"
        title = (
            f"{self.bundle.path}: {self.latency_text}{where}, "
            f"{self.bundle.size_bytes / 1e6:.1f} MB, "
            f"import within {self.parity.relative:.0e} of {self.parity.original}"
        )
        table = Table(title=title)
        for heading in ("kernel", "shapes", "calls", "us", "GOP/s", "share"):
            table.add_column(heading)
        for row in self.kernels:
            table.add_row(
                row.name, row.shapes, str(row.count), f"{row.median_us:.1f}",
                "" if row.gflops is None else f"{row.gflops:.0f}", f"{row.share:.1%}",
            )  # fmt: skip
        return table

    def fusion_table(self) -> Table:
        """The chains of operators, and which kernels measurement made of them."""
        table = Table(title="fusion by measurement")
        for heading in ("chain as relax groups it", "calls", "us", "fastest", "us"):
            table.add_column(heading, overflow="fold")
        for row in self.fusions:
            kept = row["kept"] if row["changed"] else "the same"
            table.add_row(
                row["chain"], str(row["calls"]), f"{row['default_us']:.1f}", kept,
                f"{row['us']:.1f}",
            )  # fmt: skip
        return table


@dataclass(frozen=True)
class Formats:
    """What all layers of a compiled model are put into, where the target offers it.

    Attributes:
        int8: linear layers in dynamic int8, weights rounded to nearest.
        int8_attention: the products of attention in int8 too, or alone.
        bf16, fp16: linear layers and convolutions in numbers of 16 bits.
        codebook: values that the weights of a layer may take, 2 to 256, for a smaller bundle; 0 is any.
    """

    int8: bool = False
    int8_attention: bool = False
    bf16: bool = False
    fp16: bool = False
    codebook: int = 0

    def require_one(self) -> None:
        """Raise UserError if a layer is to be in several formats."""
        wanted = [f"--{name}" for name in ("int8", "bf16", "fp16") if getattr(self, name)]
        if len(wanted) > 1:
            raise UserError(
                "a layer has one format",
                got=" ".join(wanted),
                allowed="one of --int8, --bf16, --fp16",
                next="codesign sweep finds the best format of each layer",
            )

    def put(self, prepared: Prepared, target: Target) -> Model:
        """The prepared model in these formats. Raises UserError if the target lacks an instruction."""
        graph = prepared.model
        if self.int8_attention:
            graph = with_int8_attention(prepared, target)
        if self.codebook:
            graph = in_codebooks(prepared, target, self.codebook, graph)
        if self.int8:
            graph = in_int8(prepared, target, graph)
        if self.bf16:
            graph = in_half(prepared, target, Bf16(), lacks_bf16(target), graph)
        if self.fp16:
            graph = in_half(prepared, target, Fp16(), lacks_fp16(target), graph)
        return graph


def compile_model(
    model: Any,
    *,
    target: str = "host",
    threads: int = 1,
    device: str | None = None,
    tracker: str | None = None,
    cpus: str = "",
    trials: int = 8,
    output: str | Path | None = None,
    int8: bool = False,
    int8_attention: bool = False,
    bf16: bool = False,
    fp16: bool = False,
    codebook: int = 0,
    dims: Mapping[str, int] | None = None,
    progress: ProgressReporter | None = None,
) -> Compiled:
    """Compile a model, and measure it where there is something that runs it.

    Args:
        model: a path, ``module.py:function``, or (nn.Module, example inputs).
        target: a name of ``codesign targets``; one that this machine is not is compiled without
            tuning, unless there is a device.
        threads: of the compiled model.
        device, tracker, cpus: as in `codesign.where.Where`.
        trials: schedules tried for each kernel.
        output: folder of the bundle; default ``build/<model's name>``.
        int8, int8_attention, bf16, fp16, codebook: see `Formats`.
        dims: sizes of dynamic dimensions.
        progress: hears of the work.

    Raises:
        UserError: anything that the user can mend.
    """
    progress = progress or Silent()
    formats = Formats(int8, int8_attention, bf16, fp16, codebook)
    formats.require_one()
    with open_station(Where(target, threads, device, tracker, cpus), say=progress.say) as station:
        prepared = import_model(model, dims, progress)
        path = Path(output) if output is not None else Path("build") / prepared.model.name
        return compile_prepared(prepared, station, formats, trials, path, progress)


def import_model(
    model: Any, dims: Mapping[str, int] | None, progress: ProgressReporter
) -> Prepared:
    """The model prepared, and its parity with the original told."""
    progress.start("import the model", 1)
    prepared = prepare(model, dims)
    progress.step(f"parity {prepared.imported.parity.relative:.1e} of the output scale")
    return prepared


def compile_prepared(
    prepared: Prepared,
    station: Station,
    formats: Formats,
    trials: int,
    path: Path,
    progress: ProgressReporter,
) -> Compiled:
    """Compile a prepared model into the bundle ``path`` for what the station measures on."""
    writable_folder(path.parent)
    graph = formats.put(prepared, station.target)
    _tell_integers(graph, station.target, progress)
    with Records(path.parent / "records.sqlite") as records:
        traces = path.parent / "traces"
        workshop = Workshop(station, records, trials, traces, progress)
        built = workshop.build(graph, path)
        (latency,) = workshop.measure([built.bundle.path])
        rows = _rows(built, workshop) if station.measures else ()
        where = station.device if station.measures else ""
        parity = prepared.imported.parity
        return Compiled(built.bundle, parity, latency, rows, built.fusions, where)


def _tell_integers(graph: Model, target: Target, progress: ProgressReporter) -> None:
    """Say which layers of a model that came quantised run on its integers, and why others do not."""
    layers, refusals = integer_choices(graph, target)
    if layers:
        progress.say(f"{len(layers)} layers run on the integers that the model came with")
    for refusal in refusals:
        progress.say(f"{refusal.site} computes in float32: {refusal.reason}")


def _rows(built: Built, workshop: Workshop) -> tuple[KernelRow, ...]:
    return tuple(kernel_rows("", built.kernels, workshop))


def with_int8_attention(prepared: Prepared, target: Target) -> Model:
    """The prepared model with int8 products in all attention for which the target offers them."""
    model = prepared.model
    for attention in prepared.sites.attentions:
        if int8_attention_choices(attention, target)[0]:
            model, _ = quantize_attention(model, attention)
    return model


def in_int8(prepared: Prepared, target: Target, graph: Model | None = None) -> Model:
    """All linear layers for which the target offers it in int8, without calibration data.

    Args:
        graph: the prepared model, or what became of it; its linear layers are still plain.
    """
    layers = []
    for linear in prepared.sites.linears:
        if not int8_choices(linear, target)[0]:
            continue
        weight = np.asarray(prepared.model.weights[linear.weight], np.float32)
        bias = None
        if linear.bias is not None:
            bias = np.asarray(prepared.model.weights[linear.bias], np.float32)
        grid, scale = quantize_rows(weight, np.eye(weight.shape[1]))
        form = Int8(1.0, target.block)
        layers.append((linear, Solved(form, grid, bias, {"scale": scale})))
    return format_linears(graph or prepared.model, layers, target)[0]


def in_half(
    prepared: Prepared, target: Target, form: Half, lack: str | None, graph: Model | None = None
) -> Model:
    """All linear layers and convolutions that ``form`` is offered for and can say in it.

    Args:
        lack: what the target lacks for it; None if nothing.
        graph: the prepared model, or what became of it; its linear layers are still plain.

    Raises:
        UserError: the target lacks an instruction for it.
    """
    if lack is not None:
        raise UserError(
            f"{form} is not offered on this target", got=lack, next="codesign targets lists what is"
        )
    layers = []
    for linear in prepared.sites.linears:
        weight = np.asarray(prepared.model.weights[linear.weight], np.float32)
        weight = weight.reshape(len(weight), -1)
        unknown = Values(weight.shape[1])
        if offered(form, linear, lack, HalfConfig())[0] and form.unfit(weight, unknown) is None:
            layers.append((linear, Solved(form, form.rounded(weight))))
    return format_linears(graph or prepared.model, layers, target)[0]


def in_codebooks(
    prepared: Prepared, target: Target, values: int, graph: Model | None = None
) -> Model:
    """All linear layers and convolutions of enough weights in few values, without calibration data.

    Args:
        values: at most so many in each layer, zero among them.
        graph: the prepared model, or what became of it; its linear layers are still plain.
    """
    layers = []
    config = CodebookConfig(values=(values,))
    for linear in prepared.sites.linears:
        if codebook_choices(linear, target, config)[0]:
            weight = np.asarray(prepared.model.weights[linear.weight], np.float32)
            grid = cluster(weight.reshape(len(weight), -1), None, values)
            layers.append((linear, Solved(Codebook(values), grid)))
    return format_linears(graph or prepared.model, layers, target)[0]
