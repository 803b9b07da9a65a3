"""Sites: the places of a model that may be compressed, found by dataflow, not by names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import relax

from passes.lower_attention import self_attention
from passes.model import Model
from passes.patterns import AttentionMatch, Flow, LinearMatch, shape_of


@dataclass(frozen=True)
class Linear:
    """A linear layer ``y = x W^T + b`` with weights of its own.

    Attributes:
        name: its part in the layer ("layer0.ffn.up"), or the name of its weight.
        weight: parameter W, [out_features, in_features].
        bias: parameter b, [out_features], or None.
        rows: rows of x, all its leading axes together.
    """

    name: str
    weight: str
    bias: str | None
    rows: int
    in_features: int
    out_features: int


@dataclass(frozen=True)
class FFN:
    """Two linear layers with an elementwise function between: each hidden neuron may go by itself.

    Attributes:
        activation: the operator between ("gelu", "relu"), several joined by "+" in order.
    """

    name: str
    up: Linear
    down: Linear
    activation: str


@dataclass(frozen=True)
class Attention:
    """Self-attention: a combined QKV layer (rows q, k, v, each head-major) and its output layer.

    Attributes:
        plain: one kernel may compute all between them: float32, every token sees every token.
    """

    name: str
    qkv: Linear
    out: Linear
    heads: int
    head_dim: int
    plain: bool = True


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
    layers: tuple[Layer, ...]
    embeddings: tuple[Embedding, ...]


def find_sites(model: Model, like: Sites | None = None) -> Sites:
    """The sites of a model in canonical form with combined QKV.

    Args:
        model: after ``normalize`` and ``combine_qkv``.
        like: sites of an earlier form of the model. Sites that have the same weight keep their
            name, whatever was dropped before them.
    """
    sites = _Finder(model).find()
    return sites if like is None else _renamed(sites, like)


class _Finder:
    def __init__(self, model: Model) -> None:
        self._flow = Flow(model)
        self._matches = self._flow.linears()
        self._of = {m.y: m for m in self._matches}

    def find(self) -> Sites:
        attentions, ffns = self._attentions(), self._ffns()
        layers = self._layers(attentions, ffns)
        named: dict[str, Linear] = {}
        for layer in layers:
            attentions[layer.attention.qkv.weight] = layer.attention
            ffns[layer.ffn.up.weight] = layer.ffn
        for attention in attentions.values():
            named |= {p.weight: p for p in (attention.qkv, attention.out)}
        for ffn in ffns.values():
            named |= {p.weight: p for p in (ffn.up, ffn.down)}
        linears = tuple(named.get(m.weight) or _linear(m) for m in self._matches)
        return Sites(
            linears,
            tuple(attentions.values()),
            tuple(ffns.values()),
            tuple(layers),
            self._embeddings(),
        )

    def _attentions(self) -> dict[str, Attention]:
        """Attentions by the name of their QKV weight."""
        found: dict[str, Attention] = {}
        for core in self._flow.attentions():
            sources = {self._flow.third(v, i) for i, v in enumerate((core.q, core.k, core.v))}
            source = sources.pop()
            qkv = None if sources or source is None else self._of.get(source)
            reader = self._flow.only_reader(core.o)
            out = None if reader is None else self._linear_on(core.o)
            if qkv is not None and out is not None and _fits(core, qkv, out):
                found[qkv.weight] = Attention(
                    f"{qkv.weight}.attention",
                    _linear(qkv),
                    _linear(out),
                    core.heads,
                    core.head_dim,
                    self_attention(self._flow, core) is not None,
                )
        return found

    def _ffns(self) -> dict[str, FFN]:
        """FFNs by the name of their first weight."""
        found: dict[str, FFN] = {}
        for down in self._matches:
            source = self._flow.elementwise_source(down.x)
            up = None if source is None else self._of.get(source[0])
            if source is None or up is None or self._flow.only_reader(down.x) is None:
                continue
            name = f"{up.weight}.ffn"
            found[up.weight] = FFN(name, _linear(up), _linear(down), "+".join(source[1]))
        return found

    def _layers(self, attentions: dict[str, Attention], ffns: dict[str, FFN]) -> list[Layer]:
        layers: list[Layer] = []
        ordered = sorted(attentions.values(), key=lambda a: self._at(a.out.weight))
        for attention in ordered:
            for ffn in ffns.values():
                ends = self._post_norm(attention, ffn) or self._pre_norm(attention, ffn)
                if ends is not None:
                    name = f"layer{len(layers)}"
                    parts = _named_attention(attention, name), _named_ffn(ffn, name)
                    layers.append(Layer(name, *parts, *(end.name for end in ends)))
                    break
        return layers

    def _post_norm(self, attention: Attention, ffn: FFN) -> tuple[relax.Var, relax.Var] | None:
        """Input and output of h = LN(x + attention(x)); LN(h + ffn(h))."""
        flow, first = self._flow, self._match(attention.qkv)
        h = self._norm_after(self._residual(self._match(attention.out).y, first.x))
        if h is None or not self._match(ffn.up).x.same_as(h):
            return None
        end = self._norm_after(self._residual(self._match(ffn.down).y, h))
        return None if end is None or flow.normalised(end) is None else (first.x, end)

    def _pre_norm(self, attention: Attention, ffn: FFN) -> tuple[relax.Var, relax.Var] | None:
        """Input and output of h = x + attention(LN(x)); h + ffn(LN(h))."""
        x = self._flow.normalised(self._match(attention.qkv).x)
        h = None if x is None else self._residual(self._match(attention.out).y, x)
        inner = self._flow.normalised(self._match(ffn.up).x)
        if x is None or h is None or inner is None or not inner.same_as(h):
            return None
        end = self._residual(self._match(ffn.down).y, h)
        return None if end is None else (x, end)

    def _residual(self, branch: relax.Var, x: relax.Var) -> relax.Var | None:
        """The sum of a branch, which is read by nothing else, and x."""
        total = self._flow.only_reader(branch)
        call = None if total is None else self._flow.call(total, "relax.add")
        if call is None:
            return None
        pair = any(
            a.same_as(branch) and b.same_as(x)
            for a, b in (tuple(call.args), tuple(call.args)[::-1])
        )
        return total if pair and shape_of(total) == shape_of(x) else None

    def _norm_after(self, total: relax.Var | None) -> relax.Var | None:
        """The layer normalisation that alone reads a sum."""
        reader = None if total is None else self._flow.only_reader(total)
        return reader if reader is not None and self._flow.normalised(reader) is not None else None

    def _linear_on(self, x: relax.Var) -> LinearMatch | None:
        found = [m for m in self._matches if m.x.same_as(x)]
        return found[0] if len(found) == 1 else None

    def _match(self, site: Linear) -> LinearMatch:
        return next(m for m in self._matches if m.weight == site.weight)

    def _at(self, weight: str) -> int:
        return next(i for i, m in enumerate(self._matches) if m.weight == weight)

    def _embeddings(self) -> tuple[Embedding, ...]:
        found: dict[str, Embedding] = {}
        for var in self._flow.order:
            call = self._flow.call(var, "relax.take")
            weight = None if call is None else self._flow.weight(call.args[0], 2)
            if call is None or weight is None or call.attrs.axis is None or int(call.attrs.axis):
                continue
            vocab, dim = shape_of(call.args[0])
            found[weight] = Embedding(weight, weight, vocab, dim)
        return tuple(found.values())


def _linear(match: LinearMatch) -> Linear:
    sizes = (match.rows, match.in_features, match.out_features)
    return Linear(match.weight, match.weight, match.bias, *sizes)


def _fits(core: AttentionMatch, qkv: LinearMatch, out: LinearMatch) -> bool:
    width = core.heads * core.head_dim
    return qkv.out_features == 3 * width and out.in_features == width


def _named_attention(site: Attention, layer: str) -> Attention:
    name = f"{layer}.attention"
    qkv, out = replace(site.qkv, name=f"{name}.qkv"), replace(site.out, name=f"{name}.out")
    return replace(site, name=name, qkv=qkv, out=out)


def _named_ffn(site: FFN, layer: str) -> FFN:
    name = f"{layer}.ffn"
    up, down = replace(site.up, name=f"{name}.up"), replace(site.down, name=f"{name}.down")
    return replace(site, name=name, up=up, down=down)


def _renamed(sites: Sites, like: Sites) -> Sites:
    """The same sites under the names that ``like`` gives to those of the same weights."""
    linear_names = {s.weight: s.name for s in like.linears}
    attention_names = {s.qkv.weight: s.name for s in like.attentions}
    ffn_names = {s.up.weight: s.name for s in like.ffns}
    layer_names = {s.attention.qkv.weight: s.name for s in like.layers}

    def linear(site: Linear) -> Linear:
        return replace(site, name=linear_names.get(site.weight, site.name))

    def attention(site: Attention) -> Attention:
        name = attention_names.get(site.qkv.weight, site.name)
        return replace(site, name=name, qkv=linear(site.qkv), out=linear(site.out))

    def ffn(site: FFN) -> FFN:
        name = ffn_names.get(site.up.weight, site.name)
        return replace(site, name=name, up=linear(site.up), down=linear(site.down))

    def layer(site: Layer) -> Layer:
        name = layer_names.get(site.attention.qkv.weight, site.name)
        parts = attention(site.attention), ffn(site.ffn)
        return replace(site, name=name, attention=parts[0], ffn=parts[1])

    return Sites(
        tuple(linear(s) for s in sites.linears),
        tuple(attention(s) for s in sites.attentions),
        tuple(ffn(s) for s in sites.ffns),
        tuple(layer(s) for s in sites.layers),
        sites.embeddings,
    )
