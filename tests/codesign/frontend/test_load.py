"""What a user names is imported, under the user's names, and compared with the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from codesign.errors import UserError
from codesign.frontend import load, load_module
from codesign.frontend.samples import draw

SOURCE = """
import torch
from beside import WIDTH

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(11, WIDTH)
        self.head = torch.nn.Linear(WIDTH, 3)
    def forward(self, tokens, mask=None, gain=2.0):
        x = self.table(tokens) * mask[..., None]
        return {"score": self.head(x) * gain, "mean": x.mean(1)}

def model():
    torch.manual_seed(0)
    return Net(), {"tokens": torch.zeros(2, 7, dtype=torch.int64),
                   "mask": torch.ones(2, 7, dtype=torch.int64)}

def broken():
    raise RuntimeError("no checkpoint here")

def alone():
    return Net()

def pair():
    return "a", "b"

not_callable = 3
"""


class Dense(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.fc(x))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WIDTH = 5\n")
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return path


def test_a_function_of_a_python_file_is_imported_with_its_names(source: Path) -> None:
    imported = load(f"{source}:model")
    model = imported.model
    assert [(s.name, s.shape, s.dtype) for s in model.inputs] == [
        ("tokens", (2, 7), "int64"),
        ("mask", (2, 7), "int64"),
    ]
    assert list(model.weights) == ["table.weight", "head.weight", "head.bias"]
    assert [s.shape for s in model.outputs] == [(2, 7, 3), (2, 5)]
    assert model.name == source.stem
    assert imported.parity.original == "PyTorch"
    assert imported.parity.relative <= imported.parity.tolerance == 1e-4


def test_random_inputs_fit_what_the_model_does_with_them(source: Path) -> None:
    feeds = draw(load(f"{source}:model").model, seed=1)
    assert set(np.unique(feeds["tokens"])) <= set(range(11))
    assert feeds["tokens"].max() > 1
    mask = feeds["mask"]
    assert set(np.unique(mask)) == {0, 1}
    assert (np.diff(mask, axis=1) <= 0).all()
    assert mask[:, 0].all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("missing", "has no function missing"),
        ("not_callable", "has no function not_callable"),
        ("broken", "broken .* failed"),
        ("alone", "must return two things"),
        ("pair", "returns something else"),
        ("no-name", "not the name of a function"),
    ],
)
def test_a_function_that_gives_no_model_is_refused(
    source: Path, function: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(f"{source}:{function}")


def test_a_python_file_without_a_function_is_refused_with_the_way_out(source: Path) -> None:
    with pytest.raises(UserError) as raised:
        load(source)
    assert ":function" in raised.value.next


def test_a_python_file_that_does_not_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import nothing_of_this_name\n")
    with pytest.raises(UserError, match="cannot be run"):
        load(f"{path}:model")


@pytest.mark.parametrize("name", ["gone.onnx", "gone.pt2", "gone.py:model", "gone"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no such file") as raised:
        load(tmp_path / name)
    assert "gone" in raised.value.got


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"TFL3")
    with pytest.raises(UserError, match="kind of model"):
        load(path)
    with pytest.raises(UserError, match="not a file"):
        load(tmp_path)


def test_weights_that_are_not_finite_are_named() -> None:
    module = Dense()
    with torch.no_grad():
        module.fc.bias[1] = float("nan")
        module.fc.weight[0, 0] = float("inf")
    with pytest.raises(UserError, match=r"weight fc\.weight holds NaN or infinite"):
        load_module(module, (torch.zeros(2, 4),))


def test_training_mode_is_given_back() -> None:
    module = Dense().train()
    assert load_module(module, (torch.zeros(2, 4),)).parity.holds
    assert module.training
