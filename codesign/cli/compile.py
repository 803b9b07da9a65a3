"""``codesign compile``: one model for one target or several, a bundle for each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codesign.cli.console import emit, out
from codesign.cli.options import (
    Cpus,
    DeviceKey,
    Dims,
    Emulated,
    JsonFlag,
    Threads,
    TrackerAddress,
    measuring_devices,
    parse_dims,
)
from codesign.errors import UserError

EXAMPLES = (
    "Examples: codesign compile model.onnx --int8 --threads 2 -o build/model | "
    "codesign compile model.onnx -t host -t raspberry-pi-4 -t pixel-8/gpu -o build/all"
)


def command(
    model: Annotated[
        str, typer.Argument(help="An .onnx file, an exported .pt2, or module.py:function.")
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            help="A name from `codesign targets`; default: this machine. May be repeated: then a "
            "folder with a bundle for each.",
        ),
    ] = None,
    threads: Threads = 1,
    device: DeviceKey = None,
    tracker: TrackerAddress = None,
    emulated: Emulated = 0,
    cpus: Cpus = "",
    trials: Annotated[int, typer.Option(min=1, help="Schedules tried for each kernel.")] = 8,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the bundle.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="All linear layers in dynamic int8; no other change.")
    ] = False,
    int8_attention: Annotated[
        bool, typer.Option("--int8-attention", help="The products of attention in int8.")
    ] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="All linear layers and convolutions in bfloat16.")
    ] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="All linear layers and convolutions in float16.")
    ] = False,
    codebook: Annotated[
        int,
        typer.Option(min=0, max=256, help="Values that weights of a layer take, for size; 0: any."),
    ] = 0,
    dim: Dims = None,
    as_json: JsonFlag = False,
) -> None:
    """Import, lower, tune and build a model without pruning it, and write a bundle."""
    from codesign.compile import Formats, compile_model
    from codesign.compile_many import compile_targets
    from codesign.progress import progress_for

    names = target or ["host"]
    if len(names) > 1:
        if device is not None or emulated:
            given = f"--device {device}" if device is not None else f"--emulated {emulated}"
            raise UserError(
                "a device is one target", got=f"{given} and {len(names)} targets",
                allowed="a device with one --target, or none",
                next="codesign compile for each device, or leave it away: nothing is measured then",
            )  # fmt: skip
        formats = Formats(int8, int8_attention, bf16, fp16, codebook)
        with progress_for(as_json) as progress:
            made = compile_targets(
                model,
                names,
                threads=threads,
                trials=trials,
                output=output,
                formats=formats,
                dims=parse_dims(dim),
                progress=progress,
            )
        if as_json:
            emit(made.as_dict())
        else:
            out.print(made.table())
        if not made.ok:
            raise typer.Exit(2)
        return
    with (
        progress_for(as_json) as progress,
        measuring_devices(device, tracker, emulated) as (key, at),
    ):
        built = compile_model(
            model,
            target=names[0],
            threads=threads,
            device=key,
            tracker=at,
            cpus=cpus,
            trials=trials,
            output=output,
            int8=int8,
            int8_attention=int8_attention,
            bf16=bf16,
            fp16=fp16,
            codebook=codebook,
            dims=parse_dims(dim),
            progress=progress,
        )
    if as_json:
        emit(built.as_dict())
    else:
        out.print(built.table())
        if built.fusions:
            out.print(built.fusion_table())
