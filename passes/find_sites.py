"""Finding sites: encoder layers by their residual sums, stretches of any other network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tvm import relax

from passes.lower_attention import self_attention
from passes.model import Model
from passes.norm import with_norm_within
from passes.patterns import AttentionMatch, Flow, LinearMatch, shape_of
from passes.sites import FFN, Attention, Embedding, Layer, Linear, Norm, Section, Sites
from passes.stretches import find_stretches


def find_sites(model: Model) -> Sites:
    """The sites of a model after ``normalize`` and ``combine_qkv``."""
    return _Finder(model).find()


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
        chain: Sequence[Section] = layers
        if not layers:
            linears = [_linear(m) for m in self._matches]
            chain = find_stretches(self._flow, self._matches, linears, list(ffns.values()))
            for part in (p for stretch in chain for p in stretch.parts):
                if isinstance(part, FFN):
                    ffns[part.up.weight] = part
                    named |= {p.weight: p for p in (part.up, part.down)}
                elif isinstance(part, Linear):
                    named[part.weight] = part
        return Sites(
            tuple(named.get(m.weight) or _linear(m) for m in self._matches),
            tuple(attentions.values()),
            tuple(ffns.values()),
            tuple(chain),
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
                    self._norm_behind(out, f"{qkv.weight}.attention"),
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
            norm = self._norm_behind(down, name)
            found[up.weight] = FFN(name, _linear(up), _linear(down), "+".join(source[1]), norm)
        return found

    def _layers(self, attentions: dict[str, Attention], ffns: dict[str, FFN]) -> list[Layer]:
        layers: list[Layer] = []
        ordered = sorted(attentions.values(), key=lambda a: self._at(a.out.weight))
        for attention in ordered:
            for ffn in ffns.values():
                ends = self._post_norm(attention, ffn) or self._pre_norm(attention, ffn)
                if ends is not None:
                    name = f"layer{len(layers)}"
                    parts = (
                        with_norm_within(self._flow, _named_attention(attention, name), ends[1]),
                        with_norm_within(self._flow, _named_ffn(ffn, name), ends[1]),
                    )
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

    def _norm_behind(self, last: LinearMatch, site: str) -> Norm | None:
        """The layer norm with weights of its own that alone reads a layer's sum with the residual."""
        total = self._flow.only_reader(last.y)
        added = None if total is None else self._flow.call(total, "relax.add")
        var = None if added is None else self._norm_after(total)
        call = None if var is None else self._flow.call(var, "relax.nn.layer_norm")
        if call is None or added is None or any(shape_of(a) != shape_of(added) for a in added.args):
            return None
        weight, bias = (self._flow.weight(a, 1) for a in call.args[1:3])
        affine = bool(call.attrs.center) and bool(call.attrs.scale) and weight and bias
        if not affine or str(call.ty.dtype) != "float32":
            return None
        assert weight is not None
        assert bias is not None
        width, epsilon = shape_of(call)[-1], float(call.attrs.epsilon)
        return Norm(f"{site}.norm", weight, bias, width, epsilon)

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
    return Linear(match.weight, match.weight, match.bias, *sizes, match.window)


def _fits(core: AttentionMatch, qkv: LinearMatch, out: LinearMatch) -> bool:
    width = core.heads * core.head_dim
    return qkv.out_features == 3 * width and out.in_features == width


def _named_attention(site: Attention, layer: str) -> Attention:
    name = f"{layer}.attention"
    qkv, out = replace(site.qkv, name=f"{name}.qkv"), replace(site.out, name=f"{name}.out")
    return replace(site, name=name, qkv=qkv, out=out, norm=_named_norm(site.norm, name))


def _named_ffn(site: FFN, layer: str) -> FFN:
    name = f"{layer}.ffn"
    up, down = replace(site.up, name=f"{name}.up"), replace(site.down, name=f"{name}.down")
    return replace(site, name=name, up=up, down=down, norm=_named_norm(site.norm, name))


def _named_norm(norm: Norm | None, site: str) -> Norm | None:
    return None if norm is None else replace(norm, name=f"{site}.norm")
