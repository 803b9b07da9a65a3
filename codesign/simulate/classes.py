"""The compiled code of a model's segments: equal segments share it, only weights differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tvm
import tvm_ffi

from codesign.simulate.graph import Dataflow
from codesign.simulate.instrument import as_model, gate_value, probe_input, residual_input
from codesign.simulate.programs import Programs
from codesign.simulate.segments import Segment, cut
from codesign.simulate.stream import Environment, Variant
from passes.errors import PassError
from passes.lower import PACKED
from passes.model import Model
from passes.sites import Linear, Sites
from targets.target import Target

_OWN_PROBES = 6
"""Linear sites in a segment up to which each has a program that stops at its input."""

Step = Callable[[Environment], Environment]
Probe = Callable[[Environment], tvm.runtime.Tensor]


class SegmentPrograms:
    """Segments of a model and the programs that run them.

    For each class of structurally equal segments there is a program that runs it as it is, one with
    activation quantisers, and for each linear site one that stops at its input (for segments with
    many sites, only one that yields the inputs of all of them).

    Attributes:
        segments: the chain.
        outputs: variables of the model's outputs.
    """

    def __init__(self, model: Model, sites: Sites, target: Target) -> None:
        self._flow = Dataflow(model)
        self._weights = model.weights
        self.segments = cut(self._flow, sites)
        self.outputs = self._flow.outputs
        self._carried = {c for s in self.segments for c in s.part.context} | set(self.outputs)
        self._representative = self._classes()
        models: dict[str, Model] = {}
        for index in sorted(set(self._representative)):
            models |= self._programs_of(index)
        self._programs = Programs(models, target)
        self._bound: dict[tuple[int, str], tvm.runtime.Tensor] = {}
        self._gates = [tvm.runtime.tensor(gate_value(on)) for on in (False, True)]

    def step(self, index: int, variant: Variant) -> Step:
        """What runs segment ``index``, changed: from one sample's environment to the next."""
        segment = self.segments[index]
        kind = "gated" if variant.quantized else "plain"
        call = self._call(index, kind, variant)

        def run(environment: Environment) -> Environment:
            kept = {n: v for n, v in environment.items() if n in self._carried}
            return kept | dict(zip(segment.part.wanted, call(environment), strict=True))

        return run

    def probe(self, index: int, linear: str, variant: Variant) -> Probe:
        """What computes the input of a linear site of segment ``index``, changed."""
        names = [site.name for site in self.segments[index].linears]
        if linear not in names:
            raise PassError("no such linear site here", got=linear, allowed=", ".join(names))
        segment = self.segments[index]
        name = probe_input(self._flow, segment.linears[names.index(linear)])
        if name in segment.part.given and linear not in variant.quantized:
            return lambda environment: environment[name]
        probe, result = divmod(names.index(linear), self._probe_size(index))
        call = self._call(index, f"probe{probe}", variant)
        return lambda environment: call(environment)[result]

    def residual(self, index: int, linear: str, variant: Variant) -> Probe | None:
        """What computes the stream that a site's output is added to; None if it is added to none."""
        segment = self.segments[index]
        place = [site.name for site in segment.linears].index(linear)
        name = residual_input(self._flow, segment.linears[place])
        if name is None or not segment.is_layer:
            return None
        if name in segment.part.given:
            return lambda environment: environment[name]
        call = self._call(index, f"residual{place}", variant)
        return lambda environment: call(environment)[0]

    def _call(
        self, index: int, kind: str, variant: Variant
    ) -> Callable[[Environment], list[tvm.runtime.Tensor]]:
        segment = self.segments[index]
        program = _name(self._representative[index], kind)
        bound = self._bind(index, program, variant)
        gates = [] if kind == "plain" else self._gates_of(segment, variant)
        reads = (*segment.part.given, *segment.part.context)
        return lambda e: self._programs.run(program, [*(e[n] for n in reads), *gates], bound)

    def _gates_of(self, segment: Segment, variant: Variant) -> list[tvm.runtime.Tensor]:
        unknown = variant.quantized - {x.name for x in segment.linears}
        if unknown:
            got = ", ".join(sorted(unknown))
            raise PassError(f"no such linear site in {segment.name}", got=got)
        return [self._gates[x.name in variant.quantized] for x in segment.linears]

    def _bind(self, index: int, program: str, variant: Variant) -> list[tvm.runtime.Tensor]:
        """The weights of a segment as its program takes them, changed ones packed anew."""
        own = self.segments[index].part.weights
        shared = self.segments[self._representative[index]].part.weights
        mine = dict(zip(shared, own, strict=True))
        unknown = set(variant.weights) - set(own)
        if unknown:
            raise PassError(
                f"{self.segments[index].name} has no such weight", got=", ".join(sorted(unknown))
            )
        bound = []
        for lowered in self._programs.weights(program):
            source = lowered if lowered in mine else lowered.removesuffix(PACKED)
            weight = variant.weights.get(mine[source])
            key = (index, lowered)
            if weight is not None:
                bound.append(self._programs.weight(lowered, source, weight))
                continue
            if key not in self._bound:
                dense = self._weights[mine[source]]
                self._bound[key] = self._programs.weight(lowered, source, dense)
            bound.append(self._bound[key])
        return bound

    def _classes(self) -> list[int]:
        """For each segment, the first one with the same structure."""
        first: dict[int, int] = {}
        found = []
        for index, segment in enumerate(self.segments):
            plain = as_model(self._flow, segment.part)
            key = tvm_ffi.structural_hash(plain.main.without_attr("global_symbol"))
            found.append(first.setdefault(key, index))
        return found

    def _programs_of(self, index: int) -> dict[str, Model]:
        segment, flow = self.segments[index], self._flow
        if not segment.part.bindings:
            return {}
        gated = segment.linears
        models = {_name(index, "plain"): as_model(flow, segment.part)}
        if gated:
            models[_name(index, "gated")] = as_model(flow, segment.part, gated)
        size = self._probe_size(index)
        for i in range(0, len(gated), size):
            models[_name(index, f"probe{i // size}")] = self._probe(segment, gated[i : i + size])
        for i, linear in enumerate(gated if segment.is_layer else ()):
            name = residual_input(flow, linear)
            if name is not None and name not in segment.part.given:
                part = flow.slice(segment.part.given, [name])
                part = part.with_context(segment.part.context)
                models[_name(index, f"residual{i}")] = as_model(flow, part, gated)
        return models

    def _probe_size(self, index: int) -> int:
        """Linear sites that one program probes."""
        sites = len(self.segments[index].linears)
        return 1 if sites <= _OWN_PROBES else sites

    def _probe(self, segment: Segment, linears: Sequence[Linear]) -> Model:
        inputs = [probe_input(self._flow, linear) for linear in linears]
        part = self._flow.slice(segment.part.given, inputs)
        # the same parameters in the same order as the whole segment
        part = part.with_context(segment.part.context)
        return as_model(self._flow, part, segment.linears, linears)


def _name(index: int, kind: str) -> str:
    return f"segment{index}_{kind}"
