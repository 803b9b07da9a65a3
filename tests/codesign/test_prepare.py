"""From a module to a canonical model, and the hash that names it in the records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from codesign.prepare import prepare


def net(seed: int = 0, width: int = 32) -> torch.nn.Module:
    torch.manual_seed(seed)
    layer = torch.nn.TransformerEncoderLayer(width, 4, 48, batch_first=True)
    return torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


EXAMPLE = (torch.zeros(1, 8, 32),)


def test_a_module_in_memory_is_checked_and_its_sites_are_found() -> None:
    prepared = prepare((net(), EXAMPLE))
    assert prepared.imported.parity.relative <= 1e-4
    assert [layer.name for layer in prepared.sites.layers] == ["layer0", "layer1"]
    assert prepared.sites.layers[0].attention.heads == 4


def test_the_hash_names_graph_and_weights() -> None:
    one = prepare((net(), EXAMPLE)).hash
    assert prepare((net(), EXAMPLE)).hash == one
    assert prepare((net(seed=1), EXAMPLE)).hash != one
    assert prepare((net(), (torch.zeros(1, 9, 32),))).hash != one
    module = net()
    with torch.no_grad():
        module.layers[1].linear2.bias[3] += 1e-6
    assert prepare((module, EXAMPLE)).hash != one


def test_a_file_and_its_dimensions(tmp_path: Path, onnx_example: Callable[[str], Path]) -> None:
    assert len(prepare(onnx_example("encoder post")).sites.layers) == 2
    program = torch.export.export(
        net(), EXAMPLE, dynamic_shapes={"src": {1: torch.export.Dim("seq", min=2, max=64)}}
    )
    torch.export.save(program, tmp_path / "net.pt2")
    shapes = {n: prepare(tmp_path / "net.pt2", {"src.1": n}).model.inputs[0].shape for n in (5, 7)}
    assert shapes == {5: (1, 5, 32), 7: (1, 7, 32)}


@pytest.mark.parametrize("model", ["gone.onnx", "gone.py:f"])
def test_a_name_is_loaded_as_one(tmp_path: Path, model: str) -> None:
    with pytest.raises(Exception, match="no such file"):
        prepare(tmp_path / model)
