"""``codesign run``: a bundle on arrays of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codesign.cli.console import emit, out
from codesign.cli.options import JsonFlag

EXAMPLES = "Example: codesign run runs/demo/bundles/p03 --input x.npz -o y.npz"


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    inputs: Annotated[
        Path, typer.Option("--input", "-i", help="An .npz with one array per input.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz to write.")],
    as_json: JsonFlag = False,
) -> None:
    """Run a bundle on the arrays of an .npz file and write its outputs to another."""
    from codesign.runtime import run_files

    shapes = run_files(bundle, inputs, output)
    if as_json:
        emit({"output": str(output), "outputs": shapes})
    else:
        for name, shape in shapes.items():
            out.print(f"{name}: {shape}")
        out.print(f"written to {output}")
