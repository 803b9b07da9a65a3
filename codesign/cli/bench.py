"""``codesign bench``: a bundle's latency, here or on a device."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from codesign.cli.console import emit, err, out
from codesign.cli.options import DeviceKey, JsonFlag, TrackerAddress

EXAMPLES = (
    "Examples: codesign bench runs/demo/bundles/p03 --repeats 50 | "
    "codesign bench build/model --sustained 5 --cores big --max-temperature 45"
)


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    repeats: Annotated[int, typer.Option(min=3, help="Timed blocks.")] = 30,
    sustained: Annotated[
        float, typer.Option(min=0, help="Minutes of work without a pause: what can be kept up.")
    ] = 0.0,
    cores: Annotated[
        str, typer.Option("--cores", help="Where it runs: all, big, little, or as in 0-3,6.")
    ] = "all",
    max_temperature: Annotated[
        float | None, typer.Option(help="Wait until no part of the machine is hotter, in °C.")
    ] = None,
    patience: Annotated[
        float, typer.Option(min=0, help="Longest wait for --max-temperature, in seconds.")
    ] = 300.0,
    meter: Annotated[
        str | None,
        typer.Option(help='A command that prints a meter\'s {"joules": N} or {"watts": N}.'),
    ] = None,
    device: DeviceKey = None,
    tracker: TrackerAddress = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure a bundle here or on a device: latency, and if asked a long run; energy where it is told."""
    from codesign.bench import Conditions, bench_bundle, bench_on_device
    from codesign.where import Where

    def say(text: str) -> None:
        err.print(text, markup=False)

    conditions = Conditions(
        minutes=sustained,
        cores=cores,
        max_temperature_c=max_temperature,
        patience_seconds=patience,
        meter=tuple(shlex.split(meter)) if meter is not None else None,
    )
    if device is None:
        result = bench_bundle(bundle, repeats, conditions, say=say)
    else:
        where = Where(device=device, tracker=tracker)
        result = bench_on_device(bundle, where, repeats, conditions, say=say)
    if as_json:
        emit(result.as_dict())
    else:
        for table in result.tables():
            out.print(table)
        for line in result.lines():
            out.print(line, markup=False, highlight=False)
