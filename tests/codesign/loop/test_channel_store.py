"""What is kept of solved channels is found again, and only by the same question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from codesign.loop.channel_store import ChannelStore, Solution

SOLUTION = Solution(
    {"stem.channels": np.array([0, 3, 5])}, {"head.w": np.ones((2, 6), np.float32)}, 0.125
)


def test_a_solution_is_found_again(tmp_path: Path) -> None:
    store = ChannelStore(tmp_path / "new", "model", "3", 32)
    assert store.find(0.5) is None
    store.add(0.5, SOLUTION)
    found = store.find(0.5)
    assert found is not None
    assert found.keep["stem.channels"].tolist() == [0, 3, 5]
    assert np.array_equal(found.weights["head.w"], SOLUTION.weights["head.w"])
    assert found.error == 0.125
    assert [p.suffix for p in (tmp_path / "new").iterdir()] == [".npz"]


def test_another_model_solver_target_or_share_is_another_question(tmp_path: Path) -> None:
    store = ChannelStore(tmp_path, "model", "3", 32)
    store.add(0.5, SOLUTION)
    assert store.find(0.7) is None
    for other in ({"model": "other"}, {"solver_version": "4"}, {"block": 8}):
        assert replace(store, **other).find(0.5) is None  # type: ignore[arg-type]


def test_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    store = ChannelStore(tmp_path, "model", "3", 32)
    store.add(0.5, SOLUTION)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert store.find(0.5) is None
    path.write_bytes(b"")
    assert store.find(0.5) is None


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = ChannelStore(tmp_path / "file" / "inner", "model", "3", 32)
    store.add(0.5, SOLUTION)
    assert store.find(0.5) is None
