"""``codesign widths``: a layer's latency against its width."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codesign.cli.console import emit, out
from codesign.cli.options import JsonFlag, TargetName, Threads

EXAMPLES = (
    "Examples: codesign widths --linear 128x384x1536 | "
    "codesign widths --conv 56x56x64x256 --kernel 1 --sweep in --every 8"
)


def command(
    linear: Annotated[
        str | None, typer.Option("--linear", help="A linear layer: ROWSxINPUTSxOUTPUTS.")
    ] = None,
    conv: Annotated[
        str | None, typer.Option("--conv", help="A convolution: HEIGHTxWIDTHxINPUTSxOUTPUTS.")
    ] = None,
    kernel: Annotated[int, typer.Option(min=1, help="Size of its square kernel.")] = 3,
    stride: Annotated[int, typer.Option(min=1, help="Of the convolution.")] = 1,
    side: Annotated[
        str, typer.Option("--sweep", help="Which channels are varied: in or out.")
    ] = "out",
    first: Annotated[int | None, typer.Option(min=1, help="The narrowest width.")] = None,
    every: Annotated[
        int | None,
        typer.Option(min=1, help="Distance of the widths; default: around the edges of blocks."),
    ] = None,
    target: TargetName = "host",
    threads: Threads = 1,
    trials: Annotated[int, typer.Option(min=1, help="Schedules tried for each width.")] = 2,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the plot and the records.")
    ] = Path("build/widths"),
    as_json: JsonFlag = False,
) -> None:
    """Measure and plot a layer's latency against its width, and say which widths are worth having."""
    from codesign.progress import progress_for
    from codesign.widths import measure_widths, parse_layer, parse_side

    layer = parse_layer(linear, conv, kernel, stride)
    with progress_for(as_json) as progress:
        measured = measure_widths(
            layer,
            parse_side(side),
            target=target,
            threads=threads,
            trials=trials,
            first=first,
            every=every,
            output=output,
            progress=progress,
        )
    if as_json:
        emit(measured.as_dict())
    else:
        out.print(measured.table())
