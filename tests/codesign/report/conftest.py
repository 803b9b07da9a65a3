"""A run with something in every section, in plausible sizes."""

import pytest

from codesign.candidate import Candidate, Choice
from codesign.frontier import Baseline, Frontier, Point
from codesign.latency import Calibration
from codesign.report import (
    ChangeRow,
    FusionRow,
    KernelRow,
    OptionRow,
    Prediction,
    RecordCounts,
    Refusal,
    ReportData,
    Veto,
)


def candidate(strength):
    choices = []
    for i in range(6):
        if i < strength - 6:
            choices.append(Choice(f"layer{i}", "drop_layer"))
            continue
        if strength > i % 4:
            choices.append(Choice(f"layer{i}.ffn", "prune_ffn", {"keep": 1536 - 128 * strength}))
        if strength > 1:
            choices += [Choice(f"layer{i}.{s}", "int8") for s in ("qkv", "out", "up", "down")]
        if strength > 3:
            choices.append(Choice(f"layer{i}.attention", "prune_heads", {"keep": 14 - strength}))
    return Candidate.of(choices)


def point(i, n, shift=0.0):
    latency = 14.5 * 0.78**i
    quality = 0.541 - 0.0006 * i**2 - shift
    return Point(
        name=f"p{n - 1 - i:02d}",
        latency_ms=latency + 3 * shift,
        latency_interval_ms=((latency + 3 * shift) * 0.985, (latency + 3 * shift) * 1.02),
        predicted_ms=latency * (1.03 - 0.01 * i),
        quality={"mrr": quality, "recall@1": quality - 0.118},
        size_bytes=int(90e6 * 0.8**i),
        choices=candidate(i).choices,
        bundle=f"bundles/p{n - 1 - i:02d}",
    )


@pytest.fixture
def data():
    n = 10
    points = tuple(sorted((point(i, n) for i in range(n)), key=lambda p: p.latency_ms))
    frontier = Frontier(
        model="all-MiniLM-L6-v2",
        target="x86-avx512-vnni",
        threads=1,
        protocol={"warmup": 3, "repeats": 20, "min_block_ms": 2.0, "cache": "warm"},
        baselines=(
            Baseline("dense", 14.6, {"mrr": 0.541, "recall@1": 0.423}),
            Baseline("onnxruntime fp32", 18.4, {"mrr": 0.541, "recall@1": 0.423}),
            Baseline("onnxruntime int8", 9.0, {"mrr": 0.532, "recall@1": 0.413}),
        ),
        points=points,
    )
    return ReportData(
        frontier=frontier,
        metric="mrr",
        labels={p.name: Candidate(p.choices).label() for p in points},
        others=tuple(point(i, n, 0.006) for i in range(1, 8)),
        kernels=tuple(
            KernelRow(c, name, shape, count, us, gflops, share, peak)
            for c in ("p00", "p05")
            for name, shape, count, us, gflops, share, peak in (
                ("linear+bias+gelu", "128x384 · 384x1536", 6, 340.0, 444.0, 0.41, 0.93),
                ("attention", "1x128x12x32", 6, 122.0, 103.0, 0.22, None),
                ("layer_norm", "128x384", 13, 9.1, None, 0.04, None),
            )
        ),
        refusals=(
            *(Refusal("sparse", f"layer{i}.qkv", "its kernel gains nothing") for i in range(6)),
            Refusal("int8", "embedding", "a lookup has no product to speed up"),
        ),
        vetoes=(Veto("layer0.ffn", "sparse 0.75", "measured 410 us, not faster than dense"),),
        changes=(
            ChangeRow(2, "layer10.ffn", 4.1, "int8", "ffn 768", "int8 causes 2.4 times the error"),
            ChangeRow(1, "layer2.ffn", 4.1, "sparse 0.5", "int8", "sparse 0.5 is vetoed"),
        ),
        fusions=(
            FusionRow("p00", "linear+add+gelu", "linear+add+gelu", 340.0, 340.0, 6, False),
            FusionRow("p05", "layer_norm | quantize", "layer_norm_quantize", 7.25, 9.5, 12, True),
        ),
        predictions=tuple(
            Prediction(p.name, p.predicted_ms, p.latency_ms, round=1 + i % 3)
            for i, p in enumerate(points)
        ),
        options=(
            OptionRow("layer0.ffn", "int8", 88.0, 0.0012),
            OptionRow("a", "b", 9.0, 0, "slow"),
        ),
        calibration=Calibration(1.02, 1.4e-6, 10),
        records=RecordCounts({"kernel": 212, "bundle": 17, "trial": 1696}, {"kernel": 840}, {}),
        goal={"metric": "mrr", "max_loss": 0.01},
        device={"name": "AMD EPYC, Zen 4, 2 cores", "memory": "8 GB"},
        versions={"codesign": "0.1.0", "tvm": "0.27.0.post1"},
        created="2026-01-02 03:04",
        minutes=9.4,
        notes=("8x over ONNX Runtime fp32 is missed by 4 % at 1 % loss.",),
    )
