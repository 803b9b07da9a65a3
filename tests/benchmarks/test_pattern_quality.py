"""What the benchmark of patterns compares, without timing anything."""

from __future__ import annotations

import torch

from benchmarks.models.resnet import resnet18
from benchmarks.models.training import as_trained
from benchmarks.pattern_quality import Row, table_of, versions
from codesign.prepare import prepare
from targets.target import find


def test_every_version_has_patterns_of_one_kind_in_many_layers() -> None:
    image = torch.randn(1, 3, 32, 32)
    prepared = prepare((as_trained(resnet18(0.5, 10), image), {"x": image}))
    found = versions(prepared.sites, find("znver4"))
    assert len(found["dense"]) == 0
    assert len(found) == 1 + 2 * 4 + 2 * 3
    for name, candidate in found.items():
        if name != "dense":
            settings = {(c.setting["shared"], c.setting["channels"]) for c in candidate}
            assert len(settings) == 1
            assert len(candidate) == 2 if "one block" in name else len(candidate) > 5


def test_the_table_has_every_metric() -> None:
    quality = {"accuracy": 99.0, "likelihood": 98.0}
    table = table_of([Row("dense", 0, 1.0, 1.0, 0.0, quality), Row("x", 3, 0.5, 2.0, 0.1, quality)])
    assert [column.header for column in table.columns][-2:] == ["accuracy", "likelihood"]
    assert table.row_count == 2
