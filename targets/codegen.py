"""What scheduled kernels go through before TVM makes code of them."""

from __future__ import annotations

import tvm

from targets.kernels.amx import lower_tiles
from targets.opencl import KIND, printable


def prepared(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """``mod``, ready for ``tvm.compile`` or ``relax.build``: what TVM cannot say of it by itself is put in.

    Args:
        mod: scheduled functions, Relax functions among them.
        target: what they are for, as TVM knows it.
    """
    return printable(mod) if target.kind.name == KIND else lower_tiles(mod)
