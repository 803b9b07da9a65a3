"""``codesign targets``: what can be compiled for, and what a connected device is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codesign.cli.console import emit, err, out
from codesign.cli.groups import group_with
from codesign.cli.options import DEFAULT_TRACKER, JsonFlag, TrackerAt

app = typer.Typer(
    cls=group_with("show", alone="list"),
    epilog="Examples: codesign targets --json | codesign targets pixel-8 | codesign targets my-phone.toml | "
    "codesign targets detect --device pi5 -o pi5.toml",
    help="List the targets that can be compiled for, explain one, or describe a connected device.",
)


@app.command("list", epilog="Example: codesign targets list --json")
def list_(as_json: JsonFlag = False) -> None:
    """List the targets that can be compiled for, and what this machine is."""
    from codesign.listing import targets_dict, targets_tables

    if as_json:
        emit(targets_dict())
    else:
        for table in targets_tables(out.width):
            out.print(table)


@app.command(epilog="Example: codesign targets show galaxy-s23/gpu")
def show(
    name: Annotated[str, typer.Argument(help="A name, or a TOML file that describes a device.")],
    as_json: JsonFlag = False,
) -> None:
    """Explain a target: cores, caches, features, which instructions kernels get, and what is unknown."""
    from codesign.target_page import target_dict, target_tables

    if as_json:
        emit(target_dict(name))
    else:
        for table in target_tables(name):
            out.print(table)


@app.command(
    epilog="Example: codesign targets detect --device pi5 --tracker 127.0.0.1:9190 -o pi5.toml"
)
def detect(
    device: Annotated[str, typer.Option("--device", help="Key of the device at the tracker.")],
    tracker: TrackerAt = DEFAULT_TRACKER,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the description there.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask a connected device what it is, and write its description as TOML, to be used as a target."""
    from codesign.files import write_text
    from codesign.fleet.identity import look_at
    from codesign.where import Where
    from targets.detect import to_toml

    found = look_at(
        Where(device=device, tracker=tracker), say=lambda text: err.print(text, markup=False)
    ).description
    text = to_toml(found)
    if output is not None:
        write_text(output, text)
    if as_json:
        emit({"name": found.name, "file": str(output) if output else None, "toml": text})
    elif output is None:
        out.print(text, markup=False, highlight=False)
    else:
        out.print(f"written: {output}; use it with --target {output}", markup=False)
    for line in found.unknown():
        err.print(f"not told: {line}", style="yellow", markup=False)
