"""One model compiled, measured and run, as it is and in int8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codesign.bench import bench_bundle
from codesign.bundle import open_bundle
from codesign.cli import main
from codesign.compile import Compiled, compile_model, in_half, in_int8
from codesign.errors import UserError
from codesign.prepare import prepare
from codesign.runtime import Runtime
from passes.fp16 import Fp16
from targets.target import KNOWN, host


@pytest.fixture(scope="module")
def model() -> tuple[torch.nn.Module, tuple[torch.Tensor]]:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(64, 4, 96, batch_first=True)
    module = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    return module, (torch.randn(1, 11, 64),)


@pytest.fixture(scope="module")
def compiled(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return compile_model(model, trials=1, output=tmp_path_factory.mktemp("compiled") / "dense")


def relative_error(compiled: Compiled, model: Any) -> float:
    module, (x,) = model
    (name,) = [i.name for i in compiled.bundle.inputs]
    with torch.no_grad():
        wanted = module(x).numpy()
    (found,) = Runtime(open_bundle(compiled.bundle.path)).run({name: x.numpy()}).values()
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def test_the_bundle_computes_what_pytorch_does(compiled: Compiled, model: Any) -> None:
    assert compiled.parity.relative <= 1e-4
    assert relative_error(compiled, model) <= 1e-5


def test_its_kernels_account_for_its_time(compiled: Compiled) -> None:
    shares = [row.share for row in compiled.kernels]
    assert sum(shares) == pytest.approx(1.0)
    assert shares == sorted(shares, reverse=True)
    assert sum(row.count for row in compiled.kernels) == sum(
        compiled.bundle.manifest["extra"]["kernels"].values()
    )


def test_its_json_and_its_table_say_the_same(compiled: Compiled) -> None:
    plain = json.loads(json.dumps(compiled.as_dict()))
    low, high = plain["latency_interval_ms"]
    assert 0 < low <= plain["latency_ms"] <= high
    assert plain["size_bytes"] == compiled.bundle.size_bytes
    assert Path(plain["bundle"]).is_dir()
    table = compiled.table()
    assert table.row_count == len(plain["kernels"]) == len(compiled.kernels)
    style = ".2f" if plain["latency_ms"] >= 1 else ".3g"
    assert f"{plain['latency_ms']:{style}} ms" in str(table.title)


def test_int8_is_smaller_and_close(compiled: Compiled, model: Any) -> None:
    path = compiled.bundle.path.with_name("int8")
    int8 = compile_model(model, trials=1, output=path, int8=True)
    files = [b.manifest["files"]["weights.safetensors"] for b in (int8.bundle, compiled.bundle)]
    assert files[0]["bytes"] < 0.4 * files[1]["bytes"]
    assert 1e-5 < relative_error(int8, model) <= 0.05
    assert any("int8" in row.name for row in int8.kernels)


@pytest.mark.parametrize(("flag", "most"), [("bf16", 0.03), ("fp16", 0.01)])
def test_half_precision_halves_the_weights(
    compiled: Compiled, model: Any, flag: str, most: float
) -> None:
    target = host()
    there = target.has_fp16 if flag == "fp16" else target.has_bf16 or target.has_tiles
    if not there:
        pytest.skip(f"this machine has no {flag}")
    path = compiled.bundle.path.with_name(flag)
    half = compile_model(model, trials=1, output=path, **{flag: True})
    files = [b.manifest["files"]["weights.safetensors"] for b in (half.bundle, compiled.bundle)]
    assert files[0]["bytes"] < 0.6 * files[1]["bytes"]
    assert 1e-5 < relative_error(half, model) <= most
    assert any(f"linear_{flag}" in row.name for row in half.kernels)


def test_half_precision_where_it_cannot_be_or_twice(model: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fp16 is not offered on this target") as caught:
        compile_model(model, target="znver4", output=tmp_path / "a", fp16=True)
    assert "does not compute in float16" in caught.value.got
    with pytest.raises(UserError, match="one format"):
        compile_model(model, output=tmp_path / "b", int8=True, bf16=True)


def test_half_precision_leaves_alone_what_it_cannot_say() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
    with torch.no_grad():
        net[2].weight[1, 1] = 1e5
    prepared = prepare((net.eval(), (torch.randn(2, 64),)))
    made = in_half(prepared, KNOWN["sapphirerapids"], Fp16(), None)
    assert sum(w.dtype == np.float16 for w in made.weights.values()) == 1


def test_few_values_are_smaller_and_no_slower_kind_of_kernel(
    compiled: Compiled, model: Any
) -> None:
    path = compiled.bundle.path.with_name("codebook")
    few = compile_model(model, trials=1, output=path, codebook=32)
    files = [b.manifest["files"]["weights.safetensors"] for b in (few.bundle, compiled.bundle)]
    assert files[0]["bytes"] < 0.25 * files[1]["bytes"]
    assert 1e-5 < relative_error(few, model) <= 0.1
    assert {row.name for row in few.kernels} == {row.name for row in compiled.kernels}


def test_int8_attention_alone_and_with_layers(compiled: Compiled, model: Any) -> None:
    names: list[set[str]] = []
    for int8 in (False, True):
        path = compiled.bundle.path.with_name(f"int8_attention_{int8}")
        made = compile_model(model, trials=1, output=path, int8=int8, int8_attention=True)
        assert 1e-6 < relative_error(made, model) <= 0.05
        names.append({row.name for row in made.kernels})
    assert all(any(n.startswith("int8_attention") for n in found) for found in names)
    assert [any("linear_int8" in n for n in found) for found in names] == [False, True]


def test_int8_leaves_alone_what_the_target_cannot(model: Any) -> None:
    prepared = prepare(model)
    assert in_int8(prepared, KNOWN["x86-64-v2"]).weights.keys() == prepared.model.weights.keys()
    packed = in_int8(prepared, KNOWN["znver4"])
    assert sum(w.dtype == np.int8 for w in packed.weights.values()) == 4


def test_bench_measures_it_in_a_process_of_its_own(
    compiled: Compiled, capsys: pytest.CaptureFixture[str]
) -> None:
    path = compiled.bundle.path
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(path), "--repeats", "7", "--json"])
    assert not ended.value.code
    told = capsys.readouterr()
    plain = json.loads(told.out)
    assert len(plain["samples_ms"]) == 7
    assert plain["protocol"]["repeats"] == 7
    assert min(plain["samples_ms"]) <= plain["latency_ms"] <= max(plain["samples_ms"])
    benched = bench_bundle(path, repeats=3)
    assert benched.protocol.threads == benched.bundle.threads == 1
    assert benched.table().row_count == 1


def test_run_writes_the_outputs(
    compiled: Compiled, model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, (x,) = model
    (name,) = [i.name for i in compiled.bundle.inputs]
    np.savez(tmp_path / "x.npz", **{name: x.numpy()})
    paths = ["--input", str(tmp_path / "x.npz"), "-o", str(tmp_path / "y.npz")]
    with pytest.raises(SystemExit) as ended:
        main(["run", str(compiled.bundle.path), *paths, "--json"])
    assert not ended.value.code
    plain = json.loads(capsys.readouterr().out)
    with np.load(tmp_path / "y.npz") as outputs, torch.no_grad():
        ((output, found),) = outputs.items()
        np.testing.assert_allclose(found, module(x).numpy(), atol=1e-4)
    assert plain["outputs"] == {output: [1, 11, 64]}


def test_compiling_again_takes_the_kernels_from_the_records(
    compiled: Compiled, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codesign.measure import Rig

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a kernel was timed again")

    monkeypatch.setattr(Rig, "time", refuse)
    again = compile_model(model, trials=1, output=compiled.bundle.path.with_name("again"))
    assert {r.name: r.median_us for r in again.kernels} == {
        r.name: r.median_us for r in compiled.kernels
    }


def test_a_failed_build_is_not_the_users_fault(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codesign.loop import workshop
    from codesign.worker import Failure

    monkeypatch.setattr(workshop, "build_model", lambda *args: Failure("error", "no linker"))
    with pytest.raises(workshop.BuildError, match="could not be built") as raised:
        compile_model(model, trials=1, output=tmp_path / "b")
    assert raised.value.exit_code == 1
    assert "no linker" in raised.value.got


def test_threads_are_set_at_build_and_kept(compiled: Compiled, model: Any, tmp_path: Path) -> None:
    two = compile_model(model, threads=2, trials=1, output=tmp_path / "two")
    assert two.bundle.threads == 2
    assert bench_bundle(two.bundle.path, repeats=3).protocol.threads == 2
