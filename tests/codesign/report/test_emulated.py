"""Where an emulator measured, no number of a report looks like a device's."""

from __future__ import annotations

import re
from dataclasses import replace

from codesign.report.page import render

NUMBER_OF_TIME = re.compile(r"\d (ms|µs)(?! emulated)")


def test_every_time_of_an_emulated_run_says_so(data):
    emulated = replace(data, frontier=replace(data.frontier, emulated=True), notes=())
    page = render(emulated)
    text = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)
    assert "say nothing about the speed of any device" in text
    bare = [text[max(0, m.start() - 60) : m.end() + 20] for m in NUMBER_OF_TIME.finditer(text)]
    assert [b for b in bare if "per call" not in b] == []
    assert "ms emulated" not in render(data)
