"""What was done to the model, as a grid: a row for each layer, a column for each kind of site."""

from __future__ import annotations

import re
from collections.abc import Sequence

from codesign.candidate import Choice
from codesign.report.markup import Html, el

_LAYER = re.compile(r"^(?P<layer>.*?(?:layers?|blocks?|h|encoder)[._]?\d+)(?:[._/](?P<rest>.+))?$")
_COLORS = 6


def choice_grid(choices: Sequence[Choice], passes: Sequence[str]) -> Html:
    """The choices of one candidate.

    Args:
        choices: of the candidate; none is the dense model.
        passes: all passes of the run; a pass has the same colour in every grid.
    """
    if not choices:
        return el("p", "Nothing was changed: this is the dense model.", class_="muted")
    cells: dict[str, dict[str, list[Choice]]] = {}
    columns: dict[str, None] = {}
    for choice in choices:
        row, column = place(choice.site)
        cells.setdefault(row, {}).setdefault(column, []).append(choice)
        columns[column] = None
    names = sorted(columns)
    head = el("tr", el("th", "layer", scope="col"), [el("th", n, scope="col") for n in names])
    body = [
        el(
            "tr",
            el("th", row, scope="row"),
            [el("td", [chip(c, passes) for c in cells[row].get(n, [])] or dense()) for n in names],
        )
        for row in sorted(cells, key=natural)
    ]
    return el("div", el("table", el("thead", head), el("tbody", body), class_="choices"),
              class_="scroll")  # fmt: skip


def place(site: str) -> tuple[str, str]:
    """(layer, kind of site) of a site's name; a site outside layers is in a row of its own."""
    found = _LAYER.match(site)
    return (found["layer"], found["rest"] or "layer") if found else ("model", site)


def chip(choice: Choice, passes: Sequence[str]) -> Html:
    """One choice, coloured by its pass, its full site and setting on hover."""
    color = passes.index(choice.pass_name) % _COLORS if choice.pass_name in passes else 0
    title = f"{choice.site}: {choice.pass_name} {dict(choice.setting)}"
    return el("span", choice.describe(), class_=f"chip c{color}", title=title)


def dense() -> Html:
    return el("span", "dense", class_="muted")


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key in which layer10 comes after layer9."""
    return [(int(t), "") if t.isdigit() else (-1, t) for t in re.split(r"(\d+)", text)]
