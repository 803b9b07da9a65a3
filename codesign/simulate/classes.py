"""The compiled code of a model's segments: equal segments share it, only weights differ."""

from __future__ import annotations

from collections.abc import Callable

import tvm
import tvm_ffi

from codesign.simulate.gates import gate_shape, gate_value
from codesign.simulate.graph import Dataflow
from codesign.simulate.instrument import as_model
from codesign.simulate.programs import Programs
from codesign.simulate.segments import cut
from codesign.simulate.stages import Stage, staged
from codesign.simulate.stream import LEADER, SIZE, Environment, Variant
from passes.errors import PassError
from passes.formats import EXACT
from passes.lower import dense_name
from passes.model import Model
from passes.sites import Sites
from targets.target import Target

Step = Callable[[Environment], Environment]


class SegmentPrograms:
    """Segments of a model and the programs that run them, stage by stage.

    For each stage of each class of structurally equal segments there is a program that runs it as it
    is, and one with activation quantisers.

    Attributes:
        segments: the chain.
        staged: the stages of each of them.
        outputs: variables of the model's outputs.
    """

    def __init__(self, model: Model, sites: Sites, target: Target) -> None:
        self._flow = Dataflow(model)
        self._weights = model.weights
        self.segments = cut(self._flow, sites)
        self.staged = tuple(staged(self._flow, s) for s in self.segments)
        self.outputs = self._flow.outputs
        self._carried = {c for s in self.segments for c in s.part.context} | set(self.outputs)
        self._carried |= {LEADER, SIZE}
        self._representative = self._classes()
        models: dict[str, Model] = {}
        for index in sorted(set(self._representative)):
            models |= self._programs_of(index)
        self._programs = Programs(models, target)
        self._bound: dict[tuple[int, str], tvm.runtime.Tensor] = {}

    def require(self, index: int, variant: Variant) -> None:
        """Raise PassError if the variant changes what segment ``index`` does not have."""
        segment = self.segments[index]
        weights = set(variant.weights) - set(segment.part.weights)
        if weights:
            raise PassError(f"{segment.name} has no such weight", got=", ".join(sorted(weights)))
        sites = set(variant.seen) - {x.name for x in segment.switchable}
        if sites:
            got = ", ".join(sorted(sites))
            raise PassError(f"no such site in {segment.name}", got=got)

    def step(self, index: int, number: int, variant: Variant) -> Step:
        """What runs stage ``number`` of segment ``index``, changed.

        It takes one sample's environment to the one behind the stage, which holds what is read later.
        """
        stage = self.staged[index].stages[number]
        kind = "gated" if any(x.name in variant.seen for x in stage.switchable) else "plain"
        program = _name(self._representative[index], number, kind)
        bound = self._bind(index, number, program, variant)
        gates = [] if kind == "plain" else self._gates_of(stage, variant)
        kept = stage.kept | self._carried

        def run(environment: Environment) -> Environment:
            inputs = [environment[n] for n in stage.part.given]
            made = self._programs.run(program, [*inputs, *gates], bound)
            rest = {n: v for n, v in environment.items() if n in kept}
            return rest | dict(zip(stage.part.wanted, made, strict=True))

        return run

    def _gates_of(self, stage: Stage, variant: Variant) -> list[tvm.runtime.Tensor]:
        seen = ((variant.seen.get(x.name, EXACT), gate_shape(x)) for x in stage.switchable)
        return [tvm.runtime.tensor(gate_value(*pair)) for pair in seen]

    def _bind(
        self, index: int, number: int, program: str, variant: Variant
    ) -> list[tvm.runtime.Tensor]:
        """The weights of a stage as its program takes them, changed ones packed anew."""
        own = self.staged[index].stages[number].part.weights
        shared = self.staged[self._representative[index]].stages[number].part.weights
        mine = dict(zip(shared, own, strict=True))
        bound = []
        for lowered in self._programs.weights(program):
            source = lowered if lowered in mine else dense_name(lowered)
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
        first: dict[tuple[int, ...], int] = {}
        return [
            first.setdefault(tuple(self._hash(s) for s in self.staged[i].stages), i)
            for i in range(len(self.segments))
        ]

    def _hash(self, stage: Stage) -> int:
        plain = as_model(self._flow, stage.part)
        return int(tvm_ffi.structural_hash(plain.main.without_attr("global_symbol")))

    def _programs_of(self, index: int) -> dict[str, Model]:
        models: dict[str, Model] = {}
        for number, stage in enumerate(self.staged[index].stages):
            models[_name(index, number, "plain")] = as_model(self._flow, stage.part)
            if stage.switchable:
                gated = as_model(self._flow, stage.part, stage.switchable)
                models[_name(index, number, "gated")] = gated
        return models


def _name(index: int, number: int, kind: str) -> str:
    return f"segment{index}_stage{number}_{kind}"
