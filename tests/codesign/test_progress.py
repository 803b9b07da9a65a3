"""Progress on a terminal, in a log, and not at all."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from codesign.progress import RichProgress, Silent, progress_for


def reporter(terminal: bool) -> tuple[RichProgress, Progress, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100)
    bars = Progress(console=console, auto_refresh=False)
    return RichProgress(console, bars), bars, text


def test_a_log_gets_one_line_for_each_step_of_a_short_phase() -> None:
    progress, _, text = reporter(terminal=False)
    progress.start("import", 2)
    progress.step("[parity] 1e-7")
    progress.step()
    progress.say("done")
    assert text.getvalue().splitlines() == [
        "import: 2 steps", "import 1/2 [parity] 1e-7", "import 2/2", "done",
    ]  # fmt: skip


def test_a_log_gets_few_lines_of_a_long_phase() -> None:
    progress, _, text = reporter(terminal=False)
    progress.start("tune", 60)
    for _ in range(60):
        progress.step()
    assert text.getvalue().splitlines()[1:] == ["tune 25/60", "tune 50/60", "tune 60/60"]


def test_a_terminal_gets_a_bar_for_each_phase() -> None:
    progress, bars, _ = reporter(terminal=True)
    progress.start("first", 3)
    progress.step("a note")
    progress.start("second", 2)
    first, second = bars.tasks
    assert first.finished  # a phase that ends early is over all the same
    assert (second.completed, second.total) == (0, 2)
    progress.step()
    assert bars.tasks[1].completed == 1


def test_silence_where_a_program_reads(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_for(True) as progress:
        assert isinstance(progress, Silent)
        progress.start("phase", 1)
        progress.step("x")
        progress.say("y")
    with progress_for(False) as progress:
        progress.start("phase", 1)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.split() == ["phase:", "1", "steps"]
