import json
from dataclasses import replace

import pytest

from codesign.errors import UserError
from codesign.report import ReportData, plot, redraw, render, write


def test_saved_and_loaded_it_draws_the_same_page(data, tmp_path):
    data.save(tmp_path)
    loaded = ReportData.load(tmp_path)
    assert loaded == data
    assert render(loaded) == render(data)


def test_a_run_is_written_and_redrawn(data, tmp_path):
    written = write(data, tmp_path)
    assert {p.name for p in written.values()} == {
        "frontier.json",
        "report.json",
        "report.html",
        "frontier.png",
    }
    before = written["html"].read_text()
    written["html"].unlink()
    written["png"].unlink()
    assert set(redraw(tmp_path)) == {"html", "png"}
    assert written["html"].read_text() == before
    assert written["png"].read_bytes().startswith(b"\x89PNG")


def test_loss_is_relative_to_the_reference(data):
    best = data.frontier.points[-1]
    assert data.loss(best) == pytest.approx(0.0)
    assert data.loss(data.frontier.points[0]) == pytest.approx(0.0006 * 81 / 0.541)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match=r"cannot read report\.json"):
        redraw(tmp_path)


def test_a_damaged_report_names_the_key(data, tmp_path):
    path = data.save(tmp_path)
    content = json.loads(path.read_text())
    content["kernels"][1]["count"] = "six"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"report\.kernels\[1\]\.count"):
        redraw(tmp_path)


def test_a_png_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write frontier\.png"):
        plot(data, tmp_path / "file" / "frontier.png")


def test_sizes_are_saved_and_colour_the_picture(data, tmp_path):
    objectives = ("latency", "quality", "size")
    rows = tuple(replace(p, predicted_bytes=3.0, measured_bytes=4) for p in data.predictions)
    frontier = replace(data.frontier, objectives=objectives)
    sized = replace(data, frontier=frontier, predictions=rows)
    written = write(sized, tmp_path)
    assert ReportData.load(tmp_path) == sized
    plain = plot(data, tmp_path / "plain.png").read_bytes()
    assert written["png"].read_bytes() != plain
