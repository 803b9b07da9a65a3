"""Latency of well-known architectures, dense and compressed alike throughout, against ONNX Runtime.

    python -m benchmarks.architectures --threads 1
    python -m benchmarks.architectures --models resnet-18 mobilenet-v2 --json runs/architectures.json

The weights are random and nothing is solved: the figures say something about latency and nothing about
quality. Every layer that a family is offered for gets it, faster or not; a sweep would choose for each.
All variants of a model and ONNX Runtime fp32 are timed in lock-step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.channel_pruning import prune
from benchmarks.models import mobilenet, resnet, transformer, vgg
from benchmarks.models.training import as_trained
from codesign.device import this_device
from codesign.loop.baseline import open_baseline
from codesign.loop.costs import placeholder
from codesign.loop.finals import lock_step
from codesign.loop.formats import formats_for
from codesign.loop.onnx_baseline import OnnxBaseline
from codesign.loop.workshop import Workshop
from codesign.measure import Rig
from codesign.measurement import Measurement, Protocol
from codesign.prepare import Prepared, prepare
from codesign.progress import ProgressReporter, progress_for
from codesign.records import Records
from codesign.station import Station
from passes.errors import PassError
from passes.format_linear import format_linears
from passes.formats import DENSE, Format
from passes.model import Model
from passes.sites import Linear
from targets.target import Target, find

Given: TypeAlias = tuple[torch.nn.Module, dict[str, torch.Tensor]]

FAMILIES: dict[str, tuple[str, ...]] = {
    "int8": ("int8_static",),
    "int8, half sparse": ("int8_static", "sparse"),
    "patterns, 3.6x connectivity": ("pattern",),
}
"""A variant -> the passes whose smallest format every layer gets that has one."""

DENSE_FP32, CHANNELS, PEER = "dense fp32", "channels, half the multiply-adds", "ONNX Runtime fp32"


def _image_model(module: torch.nn.Module, name: str = "x", train: bool = True) -> Given:
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return (as_trained(module, image) if train else module), {name: image}


def _bert_base() -> Given:
    ids = torch.randint(1000, 30000, (1, 128), generator=torch.Generator().manual_seed(0))
    return transformer.bert(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _vit_small() -> Given:
    """ViT-S/16 (Touvron et al., arXiv:2012.12877)."""
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    return _image_model(transformer.vit(**sizes), "pixel_values", train=False)


MODELS: dict[str, Callable[[], Given]] = {
    "mobilenet-v2": lambda: _image_model(mobilenet.mobilenet_v2()),
    "resnet-18": lambda: _image_model(resnet.resnet18()),
    "resnet-50": lambda: _image_model(resnet.resnet50()),
    "vgg-16": lambda: _image_model(vgg.vgg16(), "input"),
    "bert-base": _bert_base,
    "vit-s": _vit_small,
}


@dataclass(frozen=True)
class Row:
    """One variant of a model.

    Attributes:
        layers: linear layers and convolutions that have the format, of all.
        over_dense, over_onnxruntime: ratios of medians; 0 where there is nothing to compare with.
    """

    model: str
    variant: str
    layers: str
    median_ms: float
    interval_ms: tuple[float, float]
    over_dense: float
    over_onnxruntime: float


def uniform(prepared: Prepared, passes: tuple[str, ...], target: Target) -> tuple[Model, int]:
    """The model with the smallest format of these passes wherever there is one, and in how many layers."""
    chosen = [
        (site, form) for site in prepared.sites.linears if (form := smallest(site, passes, target))
    ]
    layers = [(s, placeholder(s, f, s.out_features, s.in_features)) for s, f in chosen]
    return format_linears(prepared.model, layers, target)[0], len(layers)


def smallest(site: Linear, passes: tuple[str, ...], target: Target) -> Format | None:
    """The format of least density, in blocks as wide as the register tile; None if none is offered."""
    forms = [f for f in formats_for(site, target, passes)[0] if f != DENSE]
    whole = [f for f in forms if getattr(f, "block", target.block) == target.block]
    return min(whole, key=lambda f: float(getattr(f, "density", 1.0)), default=None)


def variants(prepared: Prepared, target: Target) -> dict[str, tuple[Model, str]]:
    """Every variant of a model that differs from the dense one, and in how many layers."""
    count = len(prepared.sites.linears)
    found = {DENSE_FP32: (prepared.model, "")}
    for name, passes in FAMILIES.items():
        model, layers = uniform(prepared, passes, target)
        if layers:
            found[name] = (model, f"{layers} of {count}")
    if any(site.window is not None for site in prepared.sites.linears):
        with contextlib.suppress(PassError):  # where nothing in it may be pruned that far
            found[CHANNELS] = (prune(prepared.model, 0.5, False, target)[0], "all")
    return found


def measure(
    name: str, target: Target, trials: int, folder: Path, progress: ProgressReporter
) -> list[Row]:
    """Build all variants of a model and time them with ONNX Runtime in turn."""
    module, inputs = MODELS[name]()
    with torch.no_grad():
        prepared = prepare((module, inputs))
    protocol = Protocol(threads=target.threads)
    arrays = {key: np.asarray(value) for key, value in inputs.items()}
    with Records(folder / "records.sqlite") as records, Rig(target, protocol) as rig:
        workshop = Workshop(
            Station(target, this_device(), rig), records, trials, folder / "traces", progress
        )
        made = variants(prepared, target)
        paths = [
            workshop.build(model, folder / name / f"v{i}").bundle.path
            for i, (model, _) in enumerate(made.values())
        ]
        peer = open_baseline((module, inputs), arrays, target.threads, folder / name)
        try:
            onnx = peer if isinstance(peer, OnnxBaseline) else None
            times, other = lock_step(rig, protocol, paths, onnx, progress, sweeps=3)
        finally:
            if isinstance(peer, OnnxBaseline):
                peer.close()
    return rows(name, {v: layers for v, (_, layers) in made.items()}, times, other)


def rows(
    model: str, layers: Mapping[str, str], times: Sequence[Measurement], other: Measurement | None
) -> list[Row]:
    """Rows of one model, the dense variant first among the times."""

    def row(variant: str, count: str, m: Measurement) -> Row:
        over_onnx = 0.0 if other is None else other.seconds / m.seconds
        interval = (m.lo * 1e3, m.hi * 1e3)
        return Row(
            model,
            variant,
            count,
            m.seconds * 1e3,
            interval,
            times[0].seconds / m.seconds,
            over_onnx,
        )

    found = [row(v, n, m) for (v, n), m in zip(layers.items(), times, strict=True)]
    return found if other is None else [row(PEER, "", other), *found]


def table(found: Sequence[Row], target: Target) -> Table:
    """For people."""
    made = Table(title=f"{target.description}, {target}, random weights: latency only")
    for heading in (
        "model",
        "variant",
        "layers",
        "ms (95 % interval)",
        "x dense",
        "x ONNX Runtime",
    ):
        made.add_column(heading)
    for r in found:
        low, high = r.interval_ms
        ms = f"{r.median_ms:.2f} ({low:.2f} to {high:.2f})"
        made.add_row(
            r.model, r.variant, r.layers, ms, f"{r.over_dense:.2f}", f"{r.over_onnxruntime:.2f}"
        )
    return made


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trials", type=int, default=2, help="schedules tried for each kernel")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/architectures"))
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    given = parser.parse_args(arguments)
    target = find("host", given.threads)
    found: list[Row] = []
    for name in given.models:
        (given.output / name).mkdir(parents=True, exist_ok=True)
        with progress_for(False) as progress:
            made = measure(name, target, given.trials, given.output, progress)
        Console(width=140).print(table(made, target))
        found += made
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps([asdict(r) for r in found], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
