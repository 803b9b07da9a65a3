"""The pure parts of the benchmark of static int8: versions, ratios, where time goes, the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.static_int8 import (
    DENSE,
    DYNAMIC,
    MARGIN,
    OTHERS,
    Row,
    kinds,
    ratio,
    tables,
    verdict,
    versions,
)
from codesign.measurement import summarize
from codesign.report import KernelRow
from passes.sites import Attention, Linear, Sites
from targets.target import find

VNNI, PLAIN = find("icelake-server"), find("skylake-avx512")


@pytest.fixture
def sites() -> Sites:
    qkv = Linear("layer0.attention.qkv", "qkv", None, 128, 96, 288)
    out = Linear("layer0.attention.out", "out", None, 128, 96, 96)
    head = Linear("head", "head", None, 128, 96, 8)
    attention = Attention("layer0.attention", qkv, out, 3, 32)
    return Sites((qkv, out, head), (attention,), (), (), ())


def test_every_version_has_the_same_layers_in_int8(sites: Sites) -> None:
    found = versions(sites, VNNI, ("minmax", "mse"))
    assert list(found) == [DENSE, DYNAMIC, "static minmax", "static mse"]
    assert not found[DENSE].choices
    places = {name: {c.site for c in candidate} for name, candidate in found.items()}
    wanted = {"layer0.attention", "layer0.attention.qkv", "layer0.attention.out"}
    assert places[DYNAMIC] == places["static minmax"] == places["static mse"] == wanted
    settings = {c.setting.get("method") for c in found["static mse"] if c.site.endswith("qkv")}
    assert settings == {"mse"}
    alone = versions(sites, VNNI, ("minmax",), attention=False)
    assert {c.site for c in alone[DYNAMIC]} == wanted - {"layer0.attention"}
    assert not versions(sites, PLAIN, ("minmax",))[DYNAMIC].choices


def test_ratios_are_taken_turn_by_turn() -> None:
    drift = [1.0, 5.0, 1.0, 2.0, 1.0, 3.0, 1.0]
    fast, slow = summarize(drift), summarize([1.25 * d for d in drift])
    assert ratio(slow, fast) == (1.25, (1.25, 1.25))


def test_time_is_told_by_what_kernels_do() -> None:
    def row(name: str, us: float, count: int) -> KernelRow:
        return KernelRow("", name, "", count, us, None, 0.0)

    rows = [
        row("linear_int8_static_add_quantize_static", 10, 3),
        row("linear_int8_add", 5, 1),
        row("quantize_rows", 2, 4),
        row("layer_norm_quantize_static", 3, 2),
        row("attention_int8", 7, 1),
        row("take_add", 1, 1),
    ]
    assert kinds(rows) == {
        "quantising alone": 8,
        "linear layers": 35,
        "attention": 7,
        "normalisation": 6,
        OTHERS: 1,
    }


def row(name: str, over: float, score: float, **us: float) -> Row:
    where = {"linear layers": 100.0, OTHERS: 50.0} | us
    interval = (over - 0.01, over + 0.01)
    return Row(name, 5 / over, (4.0, 6.0), 2.0, over, interval, score, score, 1e-3, 40, where)


def test_the_verdict_needs_both_speed_and_quality() -> None:
    dynamic = row(DYNAMIC, 1.0, 0.53)
    fast, worse = row("static minmax", 1.1, 0.53 - 0.5 * MARGIN), row("static mse", 1.3, 0.5)
    text = verdict([dynamic, fast, worse], "mrr")
    assert text.startswith("static minmax beats dynamic int8 in latency, 1.100x (1.090 to 1.110)")
    assert "0.5275 against 0.5300" in text
    text = verdict([dynamic, worse], "mrr")
    assert text.startswith("no static version is as good as dynamic int8: static mse")
    slow = replace(row("static minmax", 0.995, 0.53), kinds={"linear layers": 160, OTHERS: 40})
    text = verdict([dynamic, slow, worse], "mrr")
    assert "does not beat dynamic int8 for sure, 0.995x (0.985 to 1.005)" in text
    assert "linear layers takes +60 us more" in text
    same = row("static minmax", 1.0, 0.53)
    assert "nothing takes longer" in verdict([dynamic, same], "mrr")


def test_tables_have_a_line_for_each_version() -> None:
    first, second = tables([row(DYNAMIC, 1.0, 0.5), row("static mse", 1.2, 0.5)], "mrr", "here")
    assert (first.row_count, second.row_count) == (2, 2)
    assert "mrr held out" in [c.header for c in first.columns]
