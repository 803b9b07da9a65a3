"""What bfloat16 and float16 have in common: weights and inputs rounded to 16 bits, one format for a layer.

Rounding a layer's inputs is a pass over them, or a part of the kernel that makes them; what is left of the
format is its numbers, and the kernels that multiply them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from tvm import relax, tirx

from passes.errors import PassError
from passes.formats import Format, Parts, Place, Seen, Solved, Writer
from passes.report import Refusal

if TYPE_CHECKING:
    from passes.sites import Linear
    from passes.solve.gram import Gram
    from targets.kernels.window import Window


@dataclass(frozen=True)
class Half(Format):
    """A dense layer in numbers of 16 bits.

    Attributes:
        inputs: its inputs as the kernels see them.
    """

    inputs: ClassVar[Seen]

    @abstractmethod
    def rounded(self, weight: NDArray[np.floating]) -> NDArray[np.float32]:
        """The nearest numbers of this format."""

    @abstractmethod
    def filled(self, channels: int) -> int:
        """Inputs of a row, or channels of an image, as kernels read them: zeros may fill them up."""

    @abstractmethod
    def pack_linear(self, weight: NDArray[np.float32], block: int) -> NDArray[np.generic]:
        """A weight [N, K] for the kernel of a linear layer."""

    @abstractmethod
    def pack_conv(
        self, weight: NDArray[np.float32], window: Window, block: int
    ) -> NDArray[np.generic]:
        """A weight OIHW for the kernel of a convolution of filled channels."""

    @abstractmethod
    def linear(self, lead: Sequence[int], k: int, n: int, block: int) -> tirx.PrimFunc:
        """The kernel of a linear layer."""

    @abstractmethod
    def conv(self, batch: int, window: Window, n: int, block: int, strip: int) -> tirx.PrimFunc:
        """The kernel of a convolution of filled channels, in strips of at most ``strip`` bytes."""

    def represent(
        self, weight: NDArray[np.float32], mask: NDArray[np.bool_] | None, gram: Gram
    ) -> tuple[NDArray[np.float32], Parts]:
        return self.rounded(weight), {}

    def seen(self, parts: Parts) -> Seen:
        return self.inputs

    def pack(self, solved: Solved, site: Linear, block: int) -> Parts:
        weight = solved.weight
        if not np.array_equal(self.rounded(weight), weight):
            raise PassError(f"{site.name} is to be {self} and its weight is not")
        if site.window is None:
            return {"b": self.pack_linear(weight, block)}
        image = weight.reshape(len(weight), -1, *site.window.kernel)
        window = site.window.with_channels(self.filled(image.shape[1]))
        return {"b": self.pack_conv(image, window, block)}

    def write(
        self, graph: Writer, x: relax.Expr, weights: Sequence[relax.Var], solved: Solved, to: Place
    ) -> relax.Expr:
        *lead, k = (int(d) for d in x.ty.shape.values)
        n, window = len(solved.weight), to.site.window
        if window is None:
            func, kind = self.linear(lead, k, n, to.block), "linear"
        else:
            filled = window.with_channels(self.filled(k))
            func, kind = self.conv(lead[0], filled, n, to.block, to.strip), "conv"
        kernel = graph.kernel(func, f"{kind}_{self.name}")
        return relax.call_tir(kernel, [*graph.seen(x, self.inputs), *weights], to.ty)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class HalfConfig:
    """What is offered.

    Attributes:
        needs_instruction: refuse it on targets that lack an instruction for it; False offers it all the
            same, and leaves the judgement to measurement.
        min_inputs: a layer with fewer inputs stays float32: rounding a row costs a pass over it.
        min_outputs: a layer with fewer outputs stays float32, for the same reason.
    """

    needs_instruction: bool = True
    min_inputs: int = 32
    min_outputs: int = 32


_Half = TypeVar("_Half", bound=Half)


def offered(
    form: _Half, site: Linear, lack: str | None, config: HalfConfig
) -> tuple[list[_Half], list[Refusal]]:
    """The format for a site, or why not.

    Args:
        lack: what the target lacks for it; None if nothing.
    """
    reason = lack if config.needs_instruction else None
    if reason is None and site.in_features < config.min_inputs:
        reason = f"{site.in_features} inputs are too few to pay for rounding rows"
    if reason is None and site.out_features < config.min_outputs:
        reason = f"{site.out_features} outputs are too few to pay for rounding rows"
    return ([form], []) if reason is None else ([], [Refusal(site.name, form.name, reason)])
