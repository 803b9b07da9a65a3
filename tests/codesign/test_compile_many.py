"""One model for several targets: a bundle each, one table, and failures that stay alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from codesign import compile_many
from codesign.bundle import open_bundle
from codesign.cli import app
from codesign.compile_many import code_of, compile_targets, folder_name
from codesign.errors import UserError
from codesign.runtime import Predictor
from targets.errors import TargetError
from targets.target import find, host

TARGETS = ["host", "aarch64", "raspberry-pi-4"]
E_MACHINE = {"x86_64": 62, "aarch64": 183}


@pytest.fixture(scope="module")
def made(mlp, cross_linker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many") / "mlp"
    return compile_targets(mlp, [*TARGETS, "aarch64"], trials=1, output=folder)


def test_there_is_a_bundle_for_each_target_once(made, machine_of):
    assert made.ok
    assert [a.name for a in made.attempts] == TARGETS
    for attempt in made.attempts:
        bundle = open_bundle(made.folder / attempt.name, to_run=False)
        assert bundle.manifest["target"]["name"] == find(attempt.name).name
        assert machine_of(bundle.library) == E_MACHINE[attempt.target.architecture]


def test_only_this_machine_s_is_measured(made):
    mine, *others = made.attempts
    assert mine.compiled.latency.ok
    assert mine.compiled.measured_on
    foreign = [a for a in others if a.target.architecture != host().architecture]
    assert len(foreign) >= 1
    for attempt in foreign:
        assert not attempt.compiled.latency.ok
        assert attempt.compiled.measured_on == ""
        assert attempt.compiled.latency_text == "not measured: no device runs it"
        assert attempt.compiled.kernels == ()


def test_this_machine_s_computes_what_pytorch_does(made, mlp):
    module, _ = mlp
    import torch

    x = np.random.default_rng(6).standard_normal((3, 37)).astype(np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    with Predictor(made.folder / "host") as predictor:
        (found,) = predictor.run({"input": x}).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_table_and_the_json_have_a_row_for_each(made):
    table = made.table()
    assert table.row_count == 3
    columns = {str(c.header): list(c.cells) for c in table.columns}
    assert columns["target"] == TARGETS
    assert columns["code"][1:] == ["aarch64 generic", "aarch64 cortex-a72"]
    assert all(int(n) > 0 for n in columns["kernels"])
    assert columns["latency"][0].endswith(")")
    plain = json.loads(json.dumps(made.as_dict()))
    assert plain["folder"] == str(made.folder)
    assert [t["name"] for t in plain["targets"]] == TARGETS
    for told in plain["targets"]:
        assert told["error"] is None
        assert told["size_bytes"] > 0
    assert plain["targets"][0]["latency_ms"] > 0
    assert plain["targets"][-1]["latency_ms"] is None


def failing(name, error):
    """`compile_prepared` that fails for one target."""
    real = compile_many.compile_prepared

    def compile_one(prepared, station, *rest):
        if station.target.name == name:
            raise error
        return real(prepared, station, *rest)

    return compile_one


@pytest.mark.usefixtures("cross_linker")
def test_a_target_that_fails_costs_none_of_the_others(mlp, tmp_path, monkeypatch):
    monkeypatch.setattr(
        compile_many, "compile_prepared", failing("aarch64", UserError("the code is too long"))
    )
    made = compile_targets(mlp, TARGETS, trials=1, output=tmp_path / "mlp")
    assert not made.ok
    assert [a.compiled is not None for a in made.attempts] == [True, False, True]
    assert "the code is too long" in made.attempts[1].error
    assert "the code is too long" in made.as_dict()["targets"][1]["error"]
    latency = next(c for c in made.table().columns if c.header == "latency")
    assert "the code is too long" in list(latency.cells)[1]
    assert not (tmp_path / "mlp" / "aarch64").exists()


def test_an_error_of_ours_is_not_taken_for_a_failed_target(mlp, tmp_path, monkeypatch):
    monkeypatch.setattr(compile_many, "compile_prepared", failing("aarch64", KeyError("ours")))
    with pytest.raises(KeyError, match="ours"):
        compile_targets(mlp, ["aarch64"], trials=1, output=tmp_path / "mlp")


def test_an_unknown_target_is_told_before_anything_is_done(tmp_path):
    with pytest.raises(TargetError, match="no-such"):
        compile_targets("never read", ["host", "no-such"], output=tmp_path / "mlp")
    assert list(tmp_path.iterdir()) == []


SOURCE = """
import torch


def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(11, 19), torch.nn.ReLU()).eval(), (torch.zeros(2, 11),)
"""


@pytest.fixture
def words(tmp_path):
    (tmp_path / "small.py").write_text(SOURCE)
    words = ["compile", f"{tmp_path / 'small.py'}:build", "--trials", "1", "--json"]
    return [*words, "-t", "host", "-t", "aarch64", "-o", str(tmp_path / "all")]


@pytest.mark.usefixtures("cross_linker")
def test_the_command_compiles_for_all_of_them(words):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [t["name"] for t in told["targets"]] == ["host", "aarch64"]


def test_the_command_fails_if_one_target_does_and_still_tells_of_the_others(words, monkeypatch):
    monkeypatch.setattr(
        compile_many, "compile_prepared", failing("aarch64", UserError("the code is too long"))
    )
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.output
    mine, other = json.loads(result.stdout)["targets"]
    assert mine["error"] is None
    assert "too long" in other["error"]


def test_a_device_is_one_target(words):
    result = CliRunner().invoke(app, [*words, "--device", "pi5"])
    assert isinstance(result.exception, UserError)
    assert "a device is one target" in str(result.exception)


@pytest.mark.parametrize(
    ("target", "folder"),
    [
        ("host", "host"),
        ("galaxy-s23/gpu", "galaxy-s23_gpu"),
        ("android-arm64+dotprod+fullfp16", "android-arm64+dotprod+fullfp16"),
        ("/a b/../my phone.toml", "my_phone"),
        ("C:\\lab\\phone.toml", "phone"),
        ("../../up", ".._.._up"),
    ],
)
def test_the_folder_of_a_target(target, folder):
    assert folder_name(target) == folder
    assert "/" not in folder_name(target)


def test_targets_that_would_share_a_folder_are_refused(tmp_path, mlp, monkeypatch):
    monkeypatch.setattr(compile_many, "find", lambda name, threads: find("aarch64", threads))
    with pytest.raises(UserError, match="share a folder"):
        compile_targets(mlp, ["a/phone.toml", "b/phone.toml"], output=tmp_path / "mlp")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("raspberry-pi-4", "aarch64 cortex-a72"),
        ("x86-64-v3", "x86_64 x86-64-v3"),
        ("galaxy-s23/gpu", "OpenCL for Adreno 740, host aarch64"),
    ],
)
def test_what_a_library_consists_of(target, words):
    assert code_of(find(target)) == words
