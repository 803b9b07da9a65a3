"""``codesign sweep``: the search for the frontier."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from codesign.cli.console import emit, out
from codesign.cli.options import (
    Cpus,
    DeviceKey,
    Emulated,
    JsonFlag,
    TrackerAddress,
    measuring_devices,
)

EXAMPLES = (
    "Examples: codesign sweep examples/minilm.toml | "
    "codesign sweep examples/minilm.toml --max-loss 0.02 --minutes 20 -o runs/second"
)


def command(
    config: Annotated[Path, typer.Argument(help="The sweep's TOML file.")],
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Overrides the file.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Overrides.")] = None,
    device: DeviceKey = None,
    tracker: TrackerAddress = None,
    emulated: Emulated = 0,
    cpus: Cpus = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Overrides.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Goal: at most this latency.")
    ] = None,
    min_quality: Annotated[float | None, typer.Option(help="Goal: at least this quality.")] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="Goal: at most this relative loss of quality (0.01 = 1 %).")
    ] = None,
    max_size_mb: Annotated[
        float | None, typer.Option(help="Goal: bundles of at most so many MB (1e6 bytes).")
    ] = None,
    size: Annotated[
        bool | None,
        typer.Option("--size/--no-size", help="Goal: small bundles too; offers codebooks."),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in minutes.")] = None,
    measurements: Annotated[
        int | None, typer.Option(help="Budget in candidates built and measured.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Search for the frontier of latency, quality and, if asked, size; it goes on after a stop."""
    from codesign.config import load_config, override
    from codesign.progress import progress_for
    from codesign.sweep import run_sweep

    with (
        progress_for(as_json) as progress,
        measuring_devices(device, tracker, emulated) as (key, at),
    ):
        settings = override(
            load_config(config),
            target=target,
            threads=threads,
            device=key,
            tracker=at,
            cpus=cpus or None,
            output=output,
            max_latency_ms=max_latency_ms,
            min_quality=min_quality,
            max_loss=max_loss,
            max_size_mb=max_size_mb,
            size=size,
            minutes=minutes,
            measurements=measurements,
        )
        result = run_sweep(settings, progress=progress, command=sys.argv)
    if as_json:
        emit(result.as_dict())
    else:
        for table in result.tables():
            out.print(table)
