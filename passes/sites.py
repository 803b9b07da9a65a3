"""Sites: the places of a model that may be compressed; `passes.find_sites` finds them by dataflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from targets.kernels.window import Window


@dataclass(frozen=True)
class Linear:
    """A linear layer ``y = x W^T + b`` with weights of its own; a convolution is one on windows.

    Attributes:
        name: its part in the layer ("layer0.ffn.up"), or the name of its weight.
        weight: parameter W, [out_features, in_features], of a convolution [O, C, kh, kw].
        bias: parameter b, [out_features], or None.
        rows: rows of the product, all leading axes of y together.
        window: of a convolution, what each row is of its image; in_features is C * kh * kw then.
    """

    name: str
    weight: str
    bias: str | None
    rows: int
    in_features: int
    out_features: int
    window: Window | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight parameter."""
        if self.window is None:
            return (self.out_features, self.in_features)
        return (self.out_features, self.window.channels, *self.window.kernel)

    @property
    def taps(self) -> int:
        """Inputs that one channel of x has in a row: 1, or the positions of the kernel."""
        return 1 if self.window is None else self.window.taps


@dataclass(frozen=True)
class Norm:
    """The layer norm over the last axis that alone reads the sum of a site's output and the residual.

    Attributes:
        weight, bias: its gain and its shift, [channels].
    """

    name: str
    weight: str
    bias: str
    channels: int
    epsilon: float


@dataclass(frozen=True)
class FFN:
    """Two linear layers with an elementwise function between: each hidden neuron may go by itself.

    Two convolutions with an elementwise function between are the same: a neuron is a channel.

    Attributes:
        activation: the operator between ("gelu", "relu"), several joined by "+" in order.
        norm: the layer norm behind it, if there is one in its section; it follows from the rest.
    """

    name: str
    up: Linear
    down: Linear
    activation: str
    norm: Norm | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Attention:
    """Self-attention: a combined QKV layer (rows q, k, v, each head-major) and its output layer.

    Attributes:
        plain: one kernel may compute all between them: float32, every token sees every token.
        norm: the layer norm behind it, if there is one in its section; it follows from the rest.
    """

    name: str
    qkv: Linear
    out: Linear
    heads: int
    head_dim: int
    plain: bool = True
    norm: Norm | None = field(default=None, compare=False)


Part: TypeAlias = Attention | FFN | Linear
"""What is decided at once."""


@dataclass(frozen=True)
class Layer:
    """An encoder layer with both its residual sums: without it, ``output`` is ``input``.

    Attributes:
        input, output: names of Relax variables of one shape.
    """

    name: str
    attention: Attention
    ffn: FFN
    input: str
    output: str
    droppable: ClassVar[bool] = True

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is decided in it, in order of computation."""
        return (self.attention, self.ffn)


@dataclass(frozen=True)
class Stretch:
    """A part of any other network, between two places that all paths lead through.

    Attributes:
        parts: what is decided in it, in order of computation.
        input, output: names of Relax variables.
        droppable: without it, ``output`` is ``input``: of one shape, and a residual branch.
    """

    name: str
    parts: tuple[Part, ...]
    input: str
    output: str
    droppable: bool


Section: TypeAlias = Layer | Stretch
"""A part of the model that others follow in a chain."""


def encoder_layers(sections: Sequence[Section]) -> list[Layer]:
    """The sections that are layers of an encoder."""
    return [section for section in sections if isinstance(section, Layer)]


@dataclass(frozen=True)
class Embedding:
    """A look-up of rows of a table [vocab, dim]."""

    name: str
    weight: str
    vocab: int
    dim: int


@dataclass(frozen=True)
class Sites:
    """All sites in order of computation; ``linears`` has those inside larger sites too."""

    linears: tuple[Linear, ...]
    attentions: tuple[Attention, ...]
    ffns: tuple[FFN, ...]
    layers: tuple[Section, ...]
    embeddings: tuple[Embedding, ...]
