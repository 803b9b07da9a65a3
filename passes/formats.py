"""How the weight of one linear layer is stored and multiplied, and what a solver hands to a rewrite.

A convolution is a linear layer on windows of an image, so its formats are the same. Each format is a
frozen dataclass in the file of its pass (`passes.sparse`, `passes.int8`, ...) and says four things:
what structure it prunes to, how it represents the numbers that are left, what its kernel sees of the
input, and how it is written into the graph. `Dense` is the one that every layer has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from targets.kernels.cache import strip_bytes

if TYPE_CHECKING:
    from tvm import relax, tirx

    from passes.sites import Linear
    from passes.solve.gram import Gram
    from passes.solve.values import Values
    from targets.target import Target

Parts: TypeAlias = dict[str, NDArray[np.generic]]
"""Arrays by name, in the order in which a kernel reads them."""

Pruned: TypeAlias = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""A weight [N, K], zero where removed, and the mask [ceil(N / block), ceil(K / group)] of what is kept."""


@dataclass(frozen=True)
class Seen:
    """What a kernel sees of its input.

    Attributes:
        bits: 32 for the numbers themselves, 16 for bfloat16 and float16, 8 for uint8 codes.
        scale, zero: of each channel, of codes that calibration fixed; empty for others.
        exponent: bits of the exponent, of numbers that are no codes.
    """

    bits: int = 32
    scale: tuple[float, ...] = ()
    zero: tuple[int, ...] = ()
    exponent: int = 8

    @property
    def static(self) -> bool:
        """True if the codes are fixed before a row comes."""
        return bool(self.scale)

    def among(self, channels: NDArray[np.intp], count: int) -> Seen:
        """The same of ``count`` channels, of which these are ``channels``; the others are not read."""
        if not self.static:
            return self
        scale, zero = np.ones(count), np.zeros(count, np.int64)
        scale[channels], zero[channels] = self.scale, self.zero
        return replace(self, scale=tuple(scale.tolist()), zero=tuple(zero.tolist()))


EXACT = Seen()
"""The input as it is."""

BFLOAT16 = Seen(bits=16)
"""The input rounded to bfloat16."""

FLOAT16 = Seen(bits=16, exponent=5)
"""The input rounded to float16."""

OTHER = Seen(bits=16)
"""Of what is no layer: computed by its replacement, of which ``ROWS`` is the one with int8 products."""

ROWS = Seen(bits=8)
"""Each row quantised to uint8 by its own range."""


class Structure(Protocol):
    """Which inputs of a weight a format removes."""

    def empty(self, rows: int, columns: int) -> NDArray[np.bool_]:
        """Any mask of this structure for a weight of this shape."""

    def prune(self, weight: NDArray[np.float64], gram: NDArray[np.float64]) -> Pruned:
        """The weight solved for this structure by the Gram matrix [K, K] of its inputs."""


@dataclass(frozen=True)
class Balanced:
    """Every block of outputs keeps equally many groups of adjacent inputs.

    Attributes:
        keep: share of the groups kept; at least one is, at most all.
        group: inputs that are kept or removed together.
        block: outputs that share one list.
    """

    keep: float
    group: int
    block: int

    def kept(self, columns: int) -> int:
        """Groups kept in each block of a weight of ``columns`` inputs."""
        groups = -(-columns // self.group)
        return max(1, min(groups, round(self.keep * groups)))

    def empty(self, rows: int, columns: int) -> NDArray[np.bool_]:
        mask = np.zeros((-(-rows // self.block), -(-columns // self.group)), np.bool_)
        mask[:, : self.kept(columns)] = True
        return mask

    def prune(self, weight: NDArray[np.float64], gram: NDArray[np.float64]) -> Pruned:
        from passes.solve.obs import prune_inputs

        return prune_inputs(weight, gram, self.kept(weight.shape[1]), self.group, self.block)


class Writer(Protocol):
    """The graph that a format writes itself into."""

    def kernel(self, func: tirx.PrimFunc, name: str) -> relax.GlobalVar:
        """Add a kernel; an equal one that is there already is used again."""

    def emit(self, expr: relax.Expr, name: str = "") -> relax.Var:
        """Bind an expression to a variable."""

    def seen(
        self, x: relax.Expr, how: Seen, weights: Sequence[relax.Var] = ()
    ) -> Sequence[relax.Var]:
        """What kernels see of ``x``, made once however many layers read it.

        ``weights`` are what it is made with: of static codes, what `quantizer` makes of them.
        """


@dataclass(frozen=True)
class Format(ABC):
    """Storage and arithmetic of one linear layer.

    Attributes:
        name: the pass, as choices and configurations name it.
        in_place: the graph stays as it is, only the weight changes.
    """

    name: ClassVar[str]
    in_place: ClassVar[bool] = False

    @property
    def setting(self) -> dict[str, Any]:
        """What `choices` of the pass calls it, JSON only."""
        return {}

    @property
    def family(self) -> str:
        """What it has in common with others; errors of one family are corrected together."""
        return str(self)

    @property
    def structure(self) -> Structure | None:
        """What it removes; None if nothing."""
        return None

    def represent(
        self, weight: NDArray[np.float32], mask: NDArray[np.bool_] | None, gram: Gram
    ) -> tuple[NDArray[np.float32], Parts]:
        """The weight [N, K] as the numbers of this format can say it, and what packing needs besides.

        Args:
            weight: after pruning, zero where removed.
            mask: what is kept; None if all.
            gram: moments of the inputs.
        """
        return weight, {}

    def unfit(self, weight: NDArray[np.floating], values: Values) -> str | None:
        """Why it cannot say the numbers of a layer; None if it can.

        Args:
            weight: [N, K], dense.
            values: of the inputs on calibration data.
        """
        return None

    def seen(self, parts: Parts) -> Seen:
        """What the kernel sees of the input."""
        return EXACT

    def placeholder(self, rows: int, columns: int) -> Parts:
        """The parts of a layer of this shape, of any value: what a kernel costs depends on shapes."""
        structure = self.structure
        return {} if structure is None else {"mask": structure.empty(rows, columns)}

    @abstractmethod
    def pack(self, solved: Solved, site: Linear, block: int) -> Parts:
        """The weights that the kernel reads, by suffix of the layer's weight.

        Raises:
            PassError: they do not fit the format.
        """

    @abstractmethod
    def write(
        self, graph: Writer, x: relax.Expr, weights: Sequence[relax.Var], solved: Solved, to: Place
    ) -> relax.Expr:
        """The layer without its bias on the new ``x``, reading what ``pack`` made."""


@dataclass(frozen=True)
class Place:
    """Where in the graph a format is written.

    Attributes:
        site: the layer.
        target: what the kernel is for.
        ty: type of the result.
    """

    site: Linear
    target: Target
    ty: relax.TensorType

    @property
    def block(self) -> int:
        """Outputs of a packed block."""
        return self.target.block

    @property
    def strip(self) -> int:
        """Most bytes of a strip of an image that a convolution works on."""
        return strip_bytes(self.target)


@dataclass(frozen=True)
class Dense(Format):
    """float32, nothing removed: what every layer is before it is compressed."""

    name: ClassVar[str] = "dense"
    in_place: ClassVar[bool] = True

    def pack(self, solved: Solved, site: Linear, block: int) -> Parts:
        return {}

    def write(
        self, graph: Writer, x: relax.Expr, weights: Sequence[relax.Var], solved: Solved, to: Place
    ) -> relax.Expr:
        raise NotImplementedError("a dense layer stays in the graph as it is")

    def __str__(self) -> str:
        return "fp32"


DENSE = Dense()


@dataclass(frozen=True)
class Solved:
    """A linear layer solved for a format, still in the dense domain.

    Attributes:
        weight: float32 [N, K], the *effective* weight: zero where removed, on its grid where
            quantised.
        bias: float32 [N] or None.
        parts: what else the format needs: ``mask`` of kept input groups, ``scale`` of int8 rows, ...
    """

    format: Format
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    parts: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """bool [ceil(N / block), ceil(K / group)], kept input groups; None if all are."""
        return self.parts.get("mask")

    @property
    def scale(self) -> NDArray[np.float32] | None:
        """float32 [N], of int8 rows; None if the weight has no grid."""
        return self.parts.get("scale")

    @property
    def seen(self) -> Seen:
        """What the kernel sees of the input."""
        return self.format.seen(dict(self.parts))
