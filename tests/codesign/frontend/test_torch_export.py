"""Exported programs: files, dynamic shapes, operators that TVM does not know or gets wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from codesign.errors import UserError
from codesign.frontend import load, load_module


class Dense(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.fc(x))


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "dense.pt2"
    shapes = {"x": {0: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(Dense().eval(), (torch.zeros(5, 4),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def test_a_dynamic_dimension_is_bound_by_its_place(dynamic: Path) -> None:
    imported = load(dynamic, dims={"x.0": 7})
    assert imported.model.inputs[0].shape == (7, 4)
    assert imported.model.outputs[0].shape == (7, 3)
    assert imported.parity.holds


def test_an_unbound_dimension_is_named_with_its_input(dynamic: Path) -> None:
    with pytest.raises(UserError, match="of input x is dynamic and not bound") as raised:
        load(dynamic)
    assert "--dim" in raised.value.next


def test_a_dimension_that_does_not_exist_is_refused_with_those_that_do(dynamic: Path) -> None:
    with pytest.raises(UserError, match="no dynamic dimension width") as raised:
        load(dynamic, dims={"width": 3})
    assert "x.0" in raised.value.allowed


def test_a_size_that_the_program_excludes_is_refused(dynamic: Path) -> None:
    with pytest.raises(UserError, match="PyTorch cannot run"):
        load(dynamic, dims={"x.0": 100})


@pytest.mark.parametrize("content", [b"no archive", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_program_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not an exported program"):
        load(path)


def test_an_operator_that_cannot_be_lowered_is_named_with_its_node() -> None:
    class Spectrum(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(x)

    with pytest.raises(
        UserError, match=r"operator _linalg_svd.* of spectrum cannot be lowered"
    ) as e:
        load_module(Spectrum(), (torch.randn(3, 3),), name="spectrum")
    assert e.value.got.startswith("node _linalg_svd")
    assert e.value.next


def test_a_module_that_cannot_be_exported_is_refused() -> None:
    class Branching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="PyTorch cannot export"):
        load_module(Branching(), (torch.randn(3),))


class Mixed(torch.nn.Module):
    """What TVM's importer gets wrong: the factor, a boolean mask, a causal mask, a missing bias."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(6, bias=False)

    def forward(self, q: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        attend = functional.scaled_dot_product_attention
        q = self.norm(q)
        return (
            attend(q, q, q, scale=0.9),
            attend(q, q, q, attn_mask=mask.bool()),
            attend(q, q, q, is_causal=True),
            attend(q, q[:, :1], q[:, :1], enable_gqa=True),
        )


def test_attention_in_all_its_forms_is_what_pytorch_computes() -> None:
    inputs = (torch.randn(2, 4, 5, 6), torch.ones(5, 5, dtype=torch.int64))
    assert load_module(Mixed(), inputs).parity.relative < 1e-6
