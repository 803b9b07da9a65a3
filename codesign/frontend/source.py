"""What a user names as MODEL: a file, or a function in a Python file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from codesign.errors import UserError
from codesign.python_file import run_file

if TYPE_CHECKING:
    import torch

Examples = tuple[Any, ...] | Mapping[str, Any]
"""Example inputs of a PyTorch module: in order, or by argument name."""

FORMS = "an .onnx file, a .pt2 file of torch.export.save, or module.py:function"


@dataclass(frozen=True)
class Source:
    """Where a model comes from; ``function`` only for Python files."""

    kind: Literal["onnx", "pt2", "python"]
    path: Path
    function: str = ""

    @property
    def name(self) -> str:
        """A name for the model: that of its file."""
        return self.path.stem


def find_source(spec: str | Path) -> Source:
    """Tell the three forms apart.

    Raises:
        UserError: none of them, or the file does not exist.
    """
    text = str(spec)
    file, colon, function = text.rpartition(":")
    if colon and file.endswith(".py"):
        return Source("python", _existing(Path(file), text), _identifier(function, text))
    path = Path(text)
    if path.suffix == ".py":
        raise UserError(
            f"{text} names a Python file but no function in it",
            got=text,
            allowed=FORMS,
            next=f"name the function that returns the model: {text}:function",
        )
    if path.suffix == ".onnx":
        return Source("onnx", _existing(path, text))
    if path.suffix == ".pt2":
        return Source("pt2", _existing(path, text))
    _existing(path, text)
    raise UserError("the kind of model is not known from its name", got=text, allowed=FORMS)


def _existing(path: Path, text: str) -> Path:
    if not path.exists():
        raise UserError(f"no such file: {path}", got=text, allowed=FORMS)
    if not path.is_file():
        raise UserError(f"{path} is not a file", got=text, allowed=FORMS)
    return path


def _identifier(function: str, text: str) -> str:
    if not function.isidentifier():
        raise UserError(
            "the part after the colon is not the name of a function", got=text, allowed=FORMS
        )
    return function


def call_function(source: Source) -> tuple[torch.nn.Module, Examples]:
    """Run the user's Python file and call its function.

    This executes the user's own code with the rights of this process.

    Raises:
        UserError: the file cannot be run, the function is missing or fails, or returns something
            else.
    """
    function = getattr(run_file(source.path), source.function, None)
    if not callable(function):
        raise UserError(
            f"{source.path} has no function {source.function}",
            got=f"{source.path}:{source.function}",
            next="name a function without arguments that returns (nn.Module, example inputs)",
        )
    try:
        result = function()
    except Exception as error:
        raise UserError(
            f"{source.function} of {source.path} failed",
            got=f"{type(error).__name__}: {error}",
            next="run the function by itself and mend it",
        ) from error
    return _pair(result, source)


def _pair(result: Any, source: Source) -> tuple[torch.nn.Module, Examples]:
    import torch

    where = f"{source.path}:{source.function}"
    if not isinstance(result, tuple) or len(result) != 2:
        kind = f"{type(result).__name__}"
        raise UserError(f"{where} must return two things", got=kind, allowed=RETURNS)
    module, examples = result
    if isinstance(examples, torch.Tensor):
        examples = (examples,)
    if not isinstance(module, torch.nn.Module) or not isinstance(examples, tuple | Mapping):
        kinds = f"({type(module).__name__}, {type(examples).__name__})"
        raise UserError(f"{where} returns something else", got=kinds, allowed=RETURNS)
    return module, examples


RETURNS = "(nn.Module, example inputs as a tuple or a dict by argument name)"
