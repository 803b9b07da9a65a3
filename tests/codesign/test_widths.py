"""``codesign widths``: every width runs once, a second run takes all of it from the records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codesign.cli import main
from codesign.errors import UserError
from codesign.widths import ConvLayer, LinearLayer, measure_widths, parse_layer, parse_side


def test_layers_from_flags():
    assert parse_layer("128x384x1536", None, 3, 1) == LinearLayer(128, 384, 1536)
    conv = parse_layer(None, "56x57x64X32", 5, 2)
    assert conv == ConvLayer(56, 57, 64, 32, 5, 2)
    assert str(conv) == "conv 56x57x64x32 kernel 5x5 stride 2"
    assert parse_side("in") == "in"


@pytest.mark.parametrize(
    "flags",
    [(None, None), ("1x2x3", "1x2x3x4"), ("1x2", None), ("1x0x2", None), (None, "1x2x3")],
)
def test_flags_that_name_no_layer(flags):
    with pytest.raises(UserError):
        parse_layer(*flags, 3, 1)


def test_other_mistakes(tmp_path: Path):
    layer = LinearLayer(4, 8, 16)
    with pytest.raises(UserError, match="no such widths"):
        measure_widths(layer, first=17, output=tmp_path)
    with pytest.raises(UserError, match="no such widths"):
        measure_widths(layer, every=0, output=tmp_path)
    with pytest.raises(UserError, match="side"):
        parse_side("both")


def test_a_linear_layer_and_the_same_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["widths", "--linear", "5x24x33", "--every", "16", "--first", "1"]
    flags += ["--trials", "1", "-o", str(tmp_path), "--json"]

    def run() -> dict:
        main_exits(flags)
        return json.loads(capsys.readouterr().out)

    first, again = run(), run()
    assert [p["width"] for p in first["points"]] == [1, 17, 33]
    assert first["worth_having"][0] == 33
    assert first["failed"] == {}
    assert all(p["us"] > 0 and p["gops"] > 0 for p in first["points"])
    assert first["trials"] == {"made": 3, "reused": 0}
    assert again["trials"] == {"made": 0, "reused": 3}
    assert again["points"] == first["points"]
    assert Path(first["plot"]).read_bytes().startswith(b"\x89PNG")


def test_the_inputs_of_a_convolution(tmp_path: Path):
    found = measure_widths(
        ConvLayer(6, 5, 9, 8, stride=2), "in", first=1, every=4, trials=1, output=tmp_path
    )
    assert [p.width for p in found.points] == [1, 5, 9]
    assert found.failed == {}
    table = found.table()
    assert "conv 6x5x9x8 kernel 3x3 stride 2, in side" in str(table.title)
    assert table.row_count >= 1


def main_exits(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 0
