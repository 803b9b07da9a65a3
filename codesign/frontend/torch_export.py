"""PyTorch modules and exported programs: imported by TVM, and run by PyTorch for comparison."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils import _pytree as pytree
from tvm.relax.frontend.torch import from_exported_program

from codesign.errors import UserError
from codesign.frontend.converters import CONVERTERS
from codesign.frontend.dimensions import Dynamic, bind
from codesign.frontend.foreign import Foreign, as_model
from codesign.frontend.source import Examples

Array = NDArray[np.generic]

_ATEN = torch.ops.aten
KEPT = (
    _ATEN.linear.default,
    _ATEN.matmul.default,
    _ATEN.layer_norm.default,
    _ATEN.gelu.default,
    _ATEN.scaled_dot_product_attention.default,
)
"""Operators that TVM knows whole: taken apart they come back larger and slower to import."""


def from_module(
    module: torch.nn.Module, examples: Examples, name: str, sizes: Mapping[str, int]
) -> Foreign:
    """Export a module in evaluation mode for the shapes of its example inputs, and import it.

    Raises:
        UserError: PyTorch cannot export it, or TVM cannot import what was exported.
    """
    args, kwargs = ((), dict(examples)) if isinstance(examples, Mapping) else (examples, {})
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, tuple(args), kwargs)
    except Exception as error:
        raise UserError(
            f"PyTorch cannot export {name}",
            got=f"{type(error).__name__}: {_first_line(error)}",
            next="make torch.export.export(module, args) work, then try again",
        ) from error
    finally:
        module.train(training)
    return from_program(program, name, sizes)


def from_program_file(path: Path, sizes: Mapping[str, int]) -> Foreign:
    """Import a ``.pt2`` file.

    ``torch.export.load`` may unpickle example inputs and constants: load only files whose author
    you would let run a program here.

    Raises:
        UserError: not such a file or damaged, an unbound dimension, or an unsupported operator.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
    except Exception as error:
        raise UserError(
            f"{path} is not an exported program, or is damaged",
            got=f"{type(error).__name__}: {_first_line(error)}",
            allowed="a file of torch.export.save",
            next="torch.export.save(torch.export.export(module, args), path) with this PyTorch",
        ) from error
    return from_program(program, path.stem, sizes)


def from_program(program: ExportedProgram, name: str, sizes: Mapping[str, int]) -> Foreign:
    """Import an exported program with weights as named parameters; see ``from_program_file``."""
    mod = _bind_dimensions(_convert(program, name), program, sizes)
    inputs = _input_names(program)
    arrays: dict[str, Array] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.PARAMETER:
            arrays[spec.target] = program.state_dict[spec.target].detach().cpu().numpy()
    # the importer takes inputs first, then parameters in the order of the program
    count = len(mod["main"].ret_ty.fields)
    outputs = [f"output{i}" for i in range(count)] if count > 1 else ["output"]
    model = as_model(mod, inputs, arrays, outputs, name)
    return Foreign(model, "PyTorch", lambda feeds: _run(program, feeds))


def _convert(program: ExportedProgram, name: str) -> tvm.IRModule:
    table = torch.export.default_decompositions()
    for op in KEPT:
        table.pop(op, None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return from_exported_program(
                program.run_decompositions(table),
                keep_params_as_input=True,
                run_ep_decomposition=False,
                custom_convert_map=CONVERTERS,
            )
    except Exception as error:
        raise _unsupported(program.run_decompositions(table), name, error) from error


def _unsupported(program: ExportedProgram, name: str, error: Exception) -> UserError:
    listed = re.search(r"Unsupported function types \[(.*?)\]", str(error))
    if listed is None:
        return UserError(
            f"{name} cannot be imported", got=f"{type(error).__name__}: {_first_line(error)}"
        )
    ops = re.findall(r"'([^']+)'", listed[1])
    nodes = [n for n in program.graph.nodes if getattr(n.target, "__name__", "") in ops]
    return UserError(
        f"operator {ops[0]} of {name} cannot be lowered",
        got=f"node {nodes[0].name if nodes else 'unknown'}{_source_line(nodes)}",
        allowed="operators that TVM's Relax frontend knows",
        next="write that step with other operators, or export the model to ONNX",
    )


def _source_line(nodes: list[Any]) -> str:
    """Where in the user's code the node comes from, if PyTorch kept it."""
    trace = nodes[0].meta.get("stack_trace") if nodes else None
    lines = [line.strip() for line in (trace or "").splitlines() if line.strip()]
    return f" ({lines[-1]})" if lines else ""


def _bind_dimensions(
    mod: tvm.IRModule, program: ExportedProgram, sizes: Mapping[str, int]
) -> tvm.IRModule:
    main = mod["main"]
    names = _input_names(program)
    found: list[Dynamic] = []
    symbols: dict[str, Any] = {}
    for name, param in zip(names, main.params, strict=False):
        for axis, dim in enumerate(param.ty.shape.values):
            if not isinstance(dim, tvm.tirx.IntImm):
                found.append(Dynamic(name, axis, str(dim)))
                symbols[found[-1].place] = dim
    bound = bind(found, sizes)
    values = {s: bound[place] for place, s in symbols.items() if isinstance(s, tvm.tirx.Var)}
    if values:
        mod["main"] = main.bind_symbolic_vars(values)
    return mod


def _input_names(program: ExportedProgram) -> list[str]:
    """Names of the tensor inputs, as the module's forward calls them."""
    return [
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and not isinstance(spec.arg, ConstantArgument)
    ]


def _run(program: ExportedProgram, feeds: Mapping[str, Array]) -> list[Array]:
    leaves: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            fixed = isinstance(spec.arg, ConstantArgument)
            leaves.append(spec.arg.value if fixed else torch.from_numpy(feeds[spec.arg.name]))
    args, kwargs = pytree.tree_unflatten(leaves, program.call_spec.in_spec)
    with torch.no_grad():
        result = program.module()(*args, **kwargs)
    tensors = [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]
    return [t.detach().cpu().numpy() for t in tensors]


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0][:300] if lines else ""
