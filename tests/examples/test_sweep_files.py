"""The sweep files in examples/ can be read, and the functions that they name exist."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from codesign.config import load_config

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda p: p.name)
def test_sweep_file(path: Path) -> None:
    config = load_config(path)
    references = (config.model, config.quality, config.search_quality, config.calibration)
    for reference in filter(None, references):
        file, _, name = reference.rpartition(":")
        tree = ast.parse(Path(file).read_text())
        assert name in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


def test_the_demo_decides_on_other_data_than_it_reports() -> None:
    config = load_config(EXAMPLES / "minilm.toml")
    assert config.search_quality not in (None, config.quality)


def test_the_demo_leaves_its_results_where_others_look() -> None:
    config = load_config(EXAMPLES / "minilm.toml")
    assert Path(config.output).resolve() == EXAMPLES.parent / "runs" / "demo"
    assert config.goal.metric == "mrr"
    assert config.budget.minutes is not None
    assert config.budget.minutes <= 13  # fifteen with the installation
