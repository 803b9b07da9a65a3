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
from codesign.measure import Rig
from codesign.measurement import Measurement, Protocol
from codesign.prepare import Prepared, prepare
from codesign.progress import ProgressReporter, Silent
from codesign.records import Records
from codesign.report import KernelRow
from codesign.schema import dump
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
from targets.target import Target, find


@dataclass(frozen=True)
class Compiled:
    """A compiled model.

    Attributes:
        parity: how close the import is to the original.
        latency: end to end, in a process of its own.
        kernels: what it runs, most expensive first.
        fusions: what was decided for each chain of operators that may be one kernel or several.
    """

    bundle: Bundle
    parity: Parity
    latency: Measurement
    kernels: tuple[KernelRow, ...]
    fusions: tuple[Mapping[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "bundle": str(self.bundle.path),
            "parity": {"relative": self.parity.relative, "original": self.parity.original},
            "latency_ms": self.latency.seconds * 1e3,
            "latency_interval_ms": [self.latency.lo * 1e3, self.latency.hi * 1e3],
            "size_bytes": self.bundle.size_bytes,
            "kernels": [dump(row) for row in self.kernels],
            "fusions": [dict(choice) for choice in self.fusions],
        }

    def table(self) -> Table:
        """For people."""
        title = (
            f"{self.bundle.path}: {self.latency.seconds * 1e3:.2f} ms "
            f"({self.latency.lo * 1e3:.2f} to {self.latency.hi * 1e3:.2f}), "
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


def compile_model(
    model: Any,
    *,
    target: str = "host",
    threads: int = 1,
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
    """Compile a model and measure it.

    Args:
        model: a path, ``module.py:function``, or (nn.Module, example inputs).
        target: a name of ``codesign targets``.
        threads: of the compiled model.
        trials: schedules tried for each kernel.
        output: folder of the bundle; default ``build/<model's name>``.
        int8: linear layers in dynamic int8, weights rounded to nearest.
        int8_attention: the products of attention in int8 too, or alone.
        bf16, fp16: linear layers and convolutions in numbers of 16 bits.
        codebook: values that the weights of a layer may take, 2 to 256, for a smaller bundle; 0 is any.
        dims: sizes of dynamic dimensions.
        progress: hears of the work.

    Raises:
        UserError: anything that the user can mend.
    """
    progress = progress or Silent()
    _require_one_format(int8=int8, bf16=bf16, fp16=fp16)
    described = find(target, threads)
    progress.start("import the model", 1)
    prepared = prepare(model, dims)
    progress.step(f"parity {prepared.imported.parity.relative:.1e} of the output scale")
    path = Path(output) if output is not None else Path("build") / prepared.model.name
    writable_folder(path.parent)
    graph = prepared.model
    if int8_attention:
        graph = with_int8_attention(prepared, described)
    if codebook:
        graph = in_codebooks(prepared, described, codebook, graph)
    if int8:
        graph = in_int8(prepared, described, graph)
    if bf16:
        graph = in_half(prepared, described, Bf16(), lacks_bf16(described), graph)
    if fp16:
        graph = in_half(prepared, described, Fp16(), lacks_fp16(described), graph)
    _tell_integers(graph, described, progress)
    with (
        Records(path.parent / "records.sqlite") as records,
        Rig(described, Protocol(threads=threads)) as rig,
    ):
        traces = path.parent / "traces"
        workshop = Workshop(described, this_device(), rig, records, trials, traces, progress)
        built = workshop.build(graph, path)
        (latency,) = workshop.measure([built.bundle.path])
        return Compiled(
            built.bundle, prepared.imported.parity, latency, _rows(built, workshop), built.fusions
        )


def _tell_integers(graph: Model, target: Target, progress: ProgressReporter) -> None:
    """Say which layers of a model that came quantised run on its integers, and why others do not."""
    layers, refusals = integer_choices(graph, target)
    if layers:
        progress.say(f"{len(layers)} layers run on the integers that the model came with")
    for refusal in refusals:
        progress.say(f"{refusal.site} computes in float32: {refusal.reason}")


def _rows(built: Built, workshop: Workshop) -> tuple[KernelRow, ...]:
    return tuple(kernel_rows("", built.kernels, workshop))


def _require_one_format(**formats: bool) -> None:
    """Raise UserError if a layer is to be in several formats."""
    wanted = [f"--{name}" for name, given in formats.items() if given]
    if len(wanted) > 1:
        raise UserError(
            "a layer has one format",
            got=" ".join(wanted),
            allowed=f"one of {', '.join(f'--{name}' for name in formats)}",
            next="codesign sweep finds the best format of each layer",
        )


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
