"""The table of who takes part."""

from __future__ import annotations

import pytest

from benchmarks.peers import artifacts, environments
from benchmarks.peers.contestants import MODELS, OPTIONAL, REQUIRED, fitting, ours, peers

ALL = frozenset({"avx512_bf16"})


@pytest.mark.parametrize("model", MODELS)
def test_required_peers_take_part_in_fp32_and_int8(model: str) -> None:
    dtypes = {r: {c.dtype for c in fitting(model, (r,), frozenset())} for r in REQUIRED}
    assert all({"fp32", "int8"} <= found for found in dtypes.values())


def test_names_are_unique() -> None:
    names = [c.name for c in peers("minilm")]
    assert len(set(names)) == len(names)


def test_every_runtime_has_its_modules() -> None:
    for runtime in (*REQUIRED, *OPTIONAL):
        assert runtime in environments.RUNTIMES
        assert runtime in environments.CONVERTERS
        assert (artifacts.HERE / "sessions" / f"{runtime}.py").is_file()
        assert (artifacts.HERE / "convert" / f"{runtime}.py").is_file()


def test_fp32_of_openvino_is_not_its_default() -> None:
    rows = {c.dtype: c for c in fitting("minilm", ("openvino",), ALL)}
    assert rows["fp32"].options == {"INFERENCE_PRECISION_HINT": "f32"}
    assert rows["bf16"].options == {}


def test_bf16_only_where_the_cpu_has_it() -> None:
    assert "bf16" in {c.dtype for c in fitting("minilm", ("openvino",), ALL)}
    assert "bf16" not in {c.dtype for c in fitting("minilm", ("openvino",), frozenset())}


def test_a_bundle_of_ours() -> None:
    assert ours("int8", "some/folder").name == "codesign int8"
