"""Operators of Relax that lower to kernels of this project instead of TVM's own."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax, te

from targets.kernels import activation

_ELEMENTWISE = 0  # relax's OpPatternKind: fused into the kernel that makes its input

Legalize = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


def elementwise(function: Callable[[te.Tensor], te.Tensor], name: str) -> Legalize:
    """Lower a one-input float32 operator to the staged expression ``function``."""

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        return builder.call_te(
            function,
            call.args[0],
            primfunc_name_hint=name,
            primfunc_attrs={"op_pattern": _ELEMENTWISE},
        )

    return legalize


LEGALIZE: dict[str, Legalize] = {
    "relax.nn.gelu": elementwise(activation.te_gelu, "gelu"),
    "relax.nn.gelu_tanh": elementwise(activation.te_gelu_tanh, "gelu_tanh"),
    "relax.nn.silu": elementwise(activation.te_silu, "silu"),
    "relax.sigmoid": elementwise(activation.te_sigmoid, "sigmoid"),
    "relax.tanh": elementwise(activation.te_tanh, "tanh"),
    "relax.exp": elementwise(activation.te_exp, "exp"),
    "relax.erf": elementwise(activation.te_erf, "erf"),
}
"""For ``relax.transform.LegalizeOps``; of float32 only."""
