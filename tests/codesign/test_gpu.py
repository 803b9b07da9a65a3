"""Whole models for mobile GPUs: their library, what runs of it here, and the keys of its measurements."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tvm

from benchmarks.opencl_kernels import run_model
from codesign.build import target_json
from codesign.device import target_key
from codesign.kernels import default_schedules, kernels, schedule
from codesign.pipeline import compile_model
from codesign.worker.building import build_kernels, build_model
from passes.int8 import lacks_dot_product
from passes.lower import lower
from passes.tokens import keep_tokens
from targets.gpu_kernels.bound import is_bound
from targets.kernels.blocks import flow, new_schedule
from targets.kernels.spaces import schedules
from targets.link import Linker
from targets.pocl import lacking
from targets.target import find

AARCH64 = 183  # e_machine of ELF


@pytest.mark.parametrize("name", ["adreno", "mali"])
def test_a_library_has_host_code_of_the_phone_and_kernels_for_its_gpu(encoder, tmp_path, name):
    linker = shutil.which("ld.lld")
    if linker is None:
        pytest.skip("ld.lld is not installed")
    lowered, executable = compile_model(encoder().model, find(name))
    assert all(is_bound(schedules(k.func, find(name), 1)[0].mod["main"]) for k in kernels(lowered))
    path = tmp_path / "lib.so"
    executable.export_library(str(path), fcompile=Linker("ld.lld", linker))
    library = path.read_bytes()
    assert int.from_bytes(library[18:20], "little") == AARCH64
    assert b"__kernel void" in library


@pytest.mark.parametrize("name", ["adreno", "mali"])
def test_an_encoder_computes_the_same_when_its_kernels_run_one_after_the_other(encoder, name):
    if (absent := lacking()) is not None:
        pytest.skip(absent)
    target, small = find(name), encoder(layers=1, batch=2, seq=11, width=40, heads=2, hidden=52)
    sample = small.sample(3)
    (y,) = run_model(lower(small.model, target), target, list(sample.values()))
    wanted = small.reference(sample)
    real = sample["attention_mask"] != 0
    assert np.abs(y - wanted)[real].max() <= 2e-5 * np.abs(wanted).max()


def test_workers_build_for_a_gpu_from_the_json_of_its_target(encoder, tmp_path):
    target = find("opencl")
    again = tvm.target.Target(json.loads(json.dumps(target_json(target))))
    assert again.kind.name == "opencl"
    assert again.host.kind.name == "llvm"
    lowered = lower(encoder().model, target)
    scheduled = schedule(lowered, default_schedules(target))
    params = {"target": target_json(target), "out": str(tmp_path / "model.so")}
    build_model(params, (tvm.ir.save_json(scheduled).encode(),))
    assert b"__kernel void" in (tmp_path / "model.so").read_bytes()
    func = schedules(kernels(lowered)[-1].func, target, 1)[0].mod["main"]
    params |= {"out": str(tmp_path / "kernels.so"), "symbols": ["k0"]}
    answer, _ = build_kernels(params, (tvm.ir.save_json(func).encode(),))
    assert answer == {"errors": {}}
    assert b"k0_kernel" in (tmp_path / "kernels.so").read_bytes()


def test_an_unscheduled_kernel_is_an_error_of_its_own(encoder, tmp_path):
    target = find("opencl")
    func = kernels(lower(encoder().model, target))[-1].func
    params = {"target": target_json(target), "out": str(tmp_path / "k.so"), "symbols": ["k0"]}
    answer, _ = build_kernels(params, (tvm.ir.save_json(func).encode(),))
    assert "k0" in answer["errors"]


def test_two_gpus_have_measurements_of_their_own():
    keys = {target_key(find(name)) for name in ("adreno", "mali", "aarch64")}
    assert len(keys) == 3
    assert "gpu" not in target_key(find("aarch64"))


def test_int8_is_refused_with_the_reason():
    assert "gain nothing on its GPU" in str(lacks_dot_product(find("mali")))


def test_tokens_are_merged_by_the_kernel_of_the_target(encoder):
    small = encoder(layers=2, batch=1, seq=16)
    second = small.sites.layers[1]
    for name, hand_written in (("adreno", False), ("aarch64", True)):
        shorter, _ = keep_tokens(small.model, small.sites.layers, {second.name: 8}, find(name))
        lowered = lower(shorter, find(name))
        (func,) = [k.func for k in kernels(lowered) if k.name == "merge_tokens"]
        assert (not flow(new_schedule(func))) == hand_written
