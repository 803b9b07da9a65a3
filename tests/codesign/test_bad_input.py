"""Bad input on the command line: exit code 2, and an error that says what, got, allowed and next."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from codesign.bundle import Contents, write_bundle
from codesign.cli import main
from codesign.manifest import manifest_hash
from codesign.pipeline import compile_model
from codesign.versions import TVM_FFI
from targets.target import KNOWN, host

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must be refused; the error as one line."""

    def run(*argv: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in argv])
        told = capsys.readouterr()
        assert ended.value.code == 2, told.err
        assert "Traceback" not in told.err
        assert "error:" in told.err
        assert "got:" in told.err
        assert "error" not in told.out
        return " ".join(told.err.split())

    return run


def onnx_file(
    path: Path, op: str = "Relu", batch: int | str = 2, weight: np.ndarray | None = None
) -> Path:
    """x [batch, 4] -> MatMul -> one more operator -> y."""
    weight = np.ones((4, 3), np.float32) if weight is None else weight
    nodes = [
        helper.make_node("MatMul", ["x", "fc.weight"], ["h"], name="/fc/MatMul"),
        helper.make_node(op, ["h"], ["y"], name="/act"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])]
    initial = [numpy_helper.from_array(weight, "fc.weight")]
    graph = helper.make_graph(nodes, "net", inputs, outputs, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


# the model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gone.onnx", "gone.pt2", "gone.py:model"])
def test_a_missing_file(refused: Refused, tmp_path: Path, name: str) -> None:
    told = refused("compile", tmp_path / name)
    assert "no such file" in told
    assert "allowed: an .onnx file, a .pt2 file" in told


def test_a_file_that_is_no_model(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "kind of model is not known" in refused("compile", tmp_path / "notes.txt")
    (tmp_path / "net.onnx").write_text("hello")
    assert "is not an ONNX model" in refused("compile", tmp_path / "net.onnx")
    (tmp_path / "net.pt2").write_text("hello")
    assert "net.pt2" in refused("compile", tmp_path / "net.pt2")


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_onnx_file(refused: Refused, tmp_path: Path, share: float) -> None:
    path = onnx_file(tmp_path / "net.onnx", weight=np.ones((4, 3), np.float32))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert "net.onnx" in refused("compile", path)


def test_an_operator_that_cannot_be_lowered(refused: Refused, tmp_path: Path) -> None:
    told = refused("compile", onnx_file(tmp_path / "net.onnx", op="Det"))
    assert "Det" in told
    assert "/act" in told
    assert "next:" in told


def test_a_dynamic_dimension_that_nothing_binds(refused: Refused, tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "net.onnx", batch="rows")
    told = refused("compile", path)
    assert "dimension rows of input x is dynamic" in told
    assert "--dim rows=" in told
    assert "no dynamic dimension" in refused("compile", path, "--dim", "seq=3")
    assert "NAME=SIZE" in refused("compile", path, "--dim", "rows=few")
    assert "NAME=SIZE" in refused("compile", path, "--dim", "rows=0")


def test_weights_that_are_nan(refused: Refused, tmp_path: Path) -> None:
    weight = np.ones((4, 3), np.float32)
    weight[1, 2] = np.nan
    told = refused("compile", onnx_file(tmp_path / "net.onnx", weight=weight))
    assert "fc.weight" in told
    assert "NaN" in told


def test_an_unknown_target_lists_the_known(refused: Refused, tmp_path: Path) -> None:
    told = refused("compile", onnx_file(tmp_path / "net.onnx"), "--target", "znver44")
    assert "unknown target" in told
    for name in KNOWN:
        assert name in told
    assert "try --target znver4" in told


def test_a_target_that_this_machine_cannot_run(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from targets import cpu, target

    real = cpu.this_processor()
    old = type(real)(**{**vars(real), "features": frozenset({"sse3"})})
    monkeypatch.setattr(target, "this_processor", lambda: old)
    told = refused("compile", onnx_file(tmp_path / "net.onnx"), "--target", "host")
    assert "no target fits this machine" in told


# the output --------------------------------------------------------------------------------------


def test_an_output_folder_that_cannot_be_made(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = onnx_file(tmp_path / "net.onnx")
    told = refused("compile", path, "-o", tmp_path / "file" / "bundle")
    assert "cannot write" in told
    assert "choose another output folder" in told


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = onnx_file(tmp_path / "net.onnx")

    def fail(source: object, destination: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", fail)
    told = refused("compile", path, "-o", tmp_path / "out" / "bundle")
    assert os.strerror(code) in told
    assert "choose another output folder" in told


def test_an_output_folder_that_holds_something_else(refused: Refused, tmp_path: Path) -> None:
    path, out = onnx_file(tmp_path / "net.onnx"), tmp_path / "precious"
    out.mkdir()
    (out / "work.txt").write_text("mine")
    assert "holds something that is no bundle" in refused("compile", path, "-o", out)
    assert (out / "work.txt").read_text() == "mine"


# the environment ---------------------------------------------------------------------------------


def test_a_wrong_tvm_ffi(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "0.1.15" if name == "apache-tvm-ffi" else real(name)
    )
    told = refused("compile", "model.onnx")
    assert "got: apache-tvm-ffi 0.1.15" in told
    assert f"apache-tvm-ffi=={TVM_FFI}" in told
    assert "got: apache-tvm-ffi 0.1.15" in refused("targets")


# bundles -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, encoder: Callable) -> Path:
    """A bundle that runs: the smallest encoder."""
    folder = tmp_path_factory.mktemp("bundles")
    target = host()
    model = encoder(layers=1, seq=8, width=32, hidden=64).model
    lowered, executable = compile_model(model, target)
    executable.export_library(str(folder / "lib.so"))
    contents = Contents("tiny", lowered.inputs, lowered.outputs, target)
    return write_bundle(folder / "sound", folder / "lib.so", lowered.weights, contents).path


@pytest.fixture
def bundle(sound: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(sound, tmp_path / "bundle"))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "x.npz"
    np.savez(path, ids=np.ones((1, 8), np.int64), attention_mask=np.ones((1, 8), np.int64))
    return path


@pytest.mark.parametrize("file", ["lib.so", "weights.safetensors"])
def test_a_bundle_with_a_changed_byte(
    refused: Refused, bundle: Path, inputs: Path, file: str
) -> None:
    data = bytearray((bundle / file).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / file).write_bytes(data)
    told = refused("run", bundle, "--input", inputs, "-o", inputs.with_name("y.npz"))
    assert f"{file} was changed" in told
    assert "next:" in told
    assert "was changed" in refused("bench", bundle)


def test_a_bundle_for_another_cpu(refused: Refused, bundle: Path, inputs: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["target"]["features"].append("avx1024")
    manifest["sha256"] = manifest_hash(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    told = refused("run", bundle, "--input", inputs, "-o", inputs.with_name("y.npz"))
    assert "for another CPU" in told
    assert "without avx1024" in told
    assert "codesign compile" in told


def test_no_bundle(refused: Refused, tmp_path: Path, inputs: Path) -> None:
    for path in (tmp_path / "gone", tmp_path):
        assert "not a bundle" in refused("bench", path)
        assert "not a bundle" in refused("run", path, "-i", inputs, "-o", tmp_path / "y.npz")


def test_wrong_inputs_of_a_run(refused: Refused, bundle: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "y.npz", tmp_path / "x.npz"
    good = np.ones((1, 8), np.int64)
    np.savez(path, ids=good, mask=good)
    told = refused("run", bundle, "-i", path, "-o", out)
    assert "missing ['attention_mask'], unknown ['mask']" in told
    assert "ids int64[1, 8]" in told
    np.savez(path, ids=good, attention_mask=good[:, :5])
    assert "wrong shape" in refused("run", bundle, "-i", path, "-o", out)
    np.savez(path, ids=good, attention_mask=good.astype(np.float32))
    assert "wrong dtype" in refused("run", bundle, "-i", path, "-o", out)
    path.write_text("no archive")
    assert "x.npz" in refused("run", bundle, "-i", path, "-o", out)
    assert "gone.npz" in refused("run", bundle, "-i", tmp_path / "gone.npz", "-o", out)
    assert not out.exists()


# runs --------------------------------------------------------------------------------------------


def test_no_run(refused: Refused, tmp_path: Path) -> None:
    assert "records" in refused("records", tmp_path / "gone")
    assert "gone" in refused("report", tmp_path / "gone")


# sweeps ------------------------------------------------------------------------------------------

USER = """
import numpy as np
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    return encoder, {"src": torch.zeros(1, 8, 32)}

def calibration():
    yield {"src": np.ones((1, 8, 32), np.float32)}

def nothing():
    return []

def other_name():
    yield {"source": np.ones((1, 8, 32), np.float32)}

def other_shape():
    yield {"src": np.ones((1, 9, 32), np.float32)}

def not_finite():
    yield {"src": np.full((1, 8, 32), np.inf, np.float32)}

def broken():
    raise OSError("no such corpus")

def raises(predict):
    return {"score": 1 / 0}

def nan(predict):
    return {"score": float("nan")}

def lacks(predict):
    return {"accuracy": 0.5}

def no_scores(predict):
    return None
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's functions; its runs share their records."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "user.py").write_text(USER)
    return folder


def sweep_file(folder: Path, **changes: str) -> Path:
    """A sweep file with some settings replaced."""
    settings = {
        "model": "user.py:build",
        "target": "host",
        "quality": "user.py:lacks",
        "calibration": "user.py:calibration",
        "output": "run",
    } | changes
    lines = [f'{k} = "{v}"' for k, v in settings.items()]
    path = folder / "sweep.toml"
    text = "\n".join(["[sweep]", *lines, "trials = 1", "[goal]", 'metric = "score"'])
    path.write_text(text + "\n[budget]\nmeasurements = 1\n")
    return path


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "the calibration set is empty got: 0 samples allowed: at least 1"),
        ("other_name", "wrong inputs got: source allowed: src"),
        ("other_shape", "wrong shape at src got: [1, 9, 32] allowed: [1, 8, 32]"),
        ("broken", "the calibration function raised OSError got: no such corpus"),
        ("missing", "user.py has no function missing"),
    ],
)
def test_calibration_that_cannot_be_used(
    refused: Refused, user: Path, function: str, message: str
) -> None:
    assert message in refused("sweep", sweep_file(user, calibration=f"user.py:{function}"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises", "the quality function raised ZeroDivisionError got: division by zero"),
        ("nan", "a value that is no number got: score=nan"),
        ("lacks", "the quality function returned no score got: accuracy allowed: the name in goal"),
        ("no_scores", "returned no scores got: None"),
    ],
)
def test_quality_that_cannot_be_used(
    refused: Refused, user: Path, function: str, message: str
) -> None:
    """It is found before anything is tuned beyond the uncompressed model itself."""
    told = refused("sweep", sweep_file(user, quality=f"user.py:{function}"))
    assert message in told
    assert "tune kernels" not in told


def test_a_sweep_into_a_folder_that_cannot_be_written(refused: Refused, user: Path) -> None:
    (user / "file").write_text("")
    told = refused("sweep", sweep_file(user, output="file/run"))
    assert "cannot write" in told


def test_a_sweep_file_that_cannot_be_used(refused: Refused, user: Path, tmp_path: Path) -> None:
    assert "unknown target" in refused("sweep", sweep_file(user, target="riscv"))
    assert "no such file" in refused("sweep", sweep_file(user, model="gone.onnx"))
    assert "quality names no function" in refused("sweep", sweep_file(user, quality="user.py"))
    assert "cannot read the sweep file" in refused("sweep", tmp_path / "gone.toml")
    (tmp_path / "bad.toml").write_text("model = ")
    assert "not TOML" in refused("sweep", tmp_path / "bad.toml")
