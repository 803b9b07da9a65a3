"""Fewer channels throughout the model: how many of each group, which, and all layers refitted to them.

The groups are those of `passes.channels`, so that what a residual sum, a concatenation or a depthwise
convolution joins is removed together. A share of the model's multiply-adds decides on the widths; the
calibration data decide which channels stay, and every layer behind a removed one is solved anew, in
order of computation, on what really reaches it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from codesign.candidate import WHOLE, Choice
from codesign.loop.bases import Base
from codesign.loop.channel_store import ChannelStore, Solution
from codesign.loop.layer_solver import effective, merged
from codesign.progress import ProgressReporter
from codesign.simulate import Variant
from passes.channels.budget import ranked_widths
from passes.channels.consumers import features_of
from passes.channels.graph import Positions
from passes.channels.groups import ChannelGroup, find_groups
from passes.channels.importance import Importance, obs_cost
from passes.channels.prune import prune_channels
from passes.channels.refit import choose_channels
from passes.errors import PassError
from passes.find_sites import find_sites
from passes.formats import DENSE, Solved
from passes.model import Model
from passes.report import Refusal
from passes.sites import FFN, Linear, Sites, encoder_layers
from passes.solve.gram import Gram
from passes.solve.kept import on_kept_inputs
from targets.target import Target

NAME = "channels"

SHARES = (0.7, 0.45)
"""Shares of the multiply-adds that are tried: each costs kernels to tune and a pass of the solver."""

Weights = dict[str, NDArray[np.float32]]


def prunable(
    model: Model, sites: Sites, target: Target
) -> tuple[tuple[ChannelGroup, ...], list[Refusal]]:
    """The groups of which channels may go, and why others may not.

    None at all where every group lies between two layers of one section: `ffn` decides about those.
    """
    if encoder_layers(sites.layers):
        reason = "the trunk of an encoder is normalised as a whole; its heads and neurons go by themselves"
        return (), [Refusal(WHOLE, NAME, reason)]
    groups, refused = find_groups(model)
    refusals = [replace(r, op=NAME) for r in refused]
    offered = []
    for group in groups:
        reason = _why_not(group, sites, target)
        if reason:
            refusals.append(Refusal(group.name, NAME, reason))
        else:
            offered.append(group)
    pairs = {
        (f.up.weight, f.down.weight) for s in sites.layers for f in s.parts if isinstance(f, FFN)
    }
    if not any(_ends(group) not in pairs for group in offered):
        reason = (
            "no group of channels reaches beyond two neighbouring layers, which `ffn` decides on"
        )
        return (), [*refusals, Refusal(WHOLE, NAME, reason)]
    return tuple(offered), refusals


def _why_not(group: ChannelGroup, sites: Sites, target: Target) -> str:
    """Why no channel of a group can go; empty if some can."""
    known = {linear.weight for linear in sites.linears}
    if group.size <= (step := group.step(target)):
        return f"{group.size} channels are not more than the step of {step} on this target"
    if not group.consumers:
        return "no layer reads them that could make up for what is lost"
    unknown = [c.weight for c in group.consumers if c.weight not in known]
    return f"{unknown[0]} reads them, which is no layer that can be solved" if unknown else ""


def _ends(group: ChannelGroup) -> tuple[str, ...]:
    """The weights on both sides of a group."""
    return tuple(dict.fromkeys(s.weight for s in (*group.producers, *group.consumers)))


@dataclass
class ChannelPruner:
    """Makes narrower bases of the first one.

    Attributes:
        groups: as ``prunable`` gives them; ``refusals`` what it refuses and what cannot be solved.
        target: widths are multiples of its steps.
        progress: one step for each group and each layer.
        store: what was solved earlier; None if nothing is kept.
        shares: that will be asked for: which channels stay is found for all of them at once.
    """

    base: Base
    groups: tuple[ChannelGroup, ...]
    refusals: list[Refusal]
    target: Target
    progress: ProgressReporter
    store: ChannelStore | None = None
    shares: tuple[float, ...] = SHARES
    _chosen: dict[tuple[ChannelGroup, int], Positions] = field(default_factory=dict)

    def narrowed(self, share: float) -> Base:
        """The base with ``share`` of the multiply-adds.

        Raises:
            PassError: the share cannot be had with the groups that can be solved.
        """
        solved = self.store.find(share) if self.store is not None else None
        if solved is None:
            solved = self._solved(share)
            if self.store is not None:
                self.store.add(share, solved)
        keep = {
            group: solved.keep[group.name] for group in self.groups if group.name in solved.keep
        }
        model = prune_channels(self.base.model, keep, solved.weights)[0]
        setting = {"share": share, "widths": {g.name: len(units) for g, units in keep.items()}}
        return replace(
            self.base,
            model=model,
            sites=find_sites(model),
            choices=(Choice(WHOLE, NAME, setting),),
            error=solved.error,
            origin=self.base,
        )

    def _solved(self, share: float) -> Solution:
        widths = self._widths.get(share) or self._ranked(share)
        self.progress.start(f"{NAME} {share:g}: which stay", len(widths))
        keep: dict[ChannelGroup, Positions] = {}
        for group, width in widths.items():
            if (group, width) not in self._chosen:
                self._choose(
                    group, {width, *(w[group] for w in self._widths.values() if group in w)}
                )
            keep[group] = self._chosen[group, width]
            self.progress.step(f"{width} of {group.size} {group.name}")
        weights, error = self._refitted(keep)
        return Solution({group.name: units for group, units in keep.items()}, weights, error)

    def _choose(self, group: ChannelGroup, widths: set[int]) -> None:
        """Which channels stay for several widths, at the price of the smallest."""
        counts = sorted(widths)
        kept = choose_channels(self.base.model, group, self._grams(group), counts)
        self._chosen |= {(group, n): units for n, units in zip(counts, kept, strict=True)}

    def _ranked(self, share: float) -> dict[ChannelGroup, int]:
        """The widths of the groups that lose channels."""
        widths = ranked_widths(self.base.model, self._importance, share, self.target)
        return {group: width for group, width in widths.items() if width < group.size}

    @cached_property
    def _widths(self) -> dict[float, dict[ChannelGroup, int]]:
        """The widths for each of the shares that can be had."""
        found: dict[float, dict[ChannelGroup, int]] = {}
        for share in self.shares:
            with suppress(PassError):  # whoever asks for that share is told
                found[share] = self._ranked(share)
        return found

    @cached_property
    def _importance(self) -> dict[ChannelGroup, Importance]:
        """What each unit of each group costs its consumers; groups that cannot be solved are refused."""
        self.progress.start(f"{NAME}: what each one is worth", len(self.groups))
        found: dict[ChannelGroup, Importance] = {}
        for group in self.groups:
            try:
                found[group] = obs_cost(self.base.model, group, self._grams(group))
            except PassError as error:
                self.refusals.append(Refusal(group.name, NAME, str(error).splitlines()[0]))
            self.progress.step(group.name)
        return found

    @cached_property
    def _sites(self) -> dict[str, Linear]:
        return {linear.weight: linear for linear in self.base.sites.linears}

    def _grams(self, group: ChannelGroup) -> dict[str, Gram]:
        """Moments of what the consumers of a group get in the model as it is."""
        simulator, solver = self.base.simulator, self.base.solver
        found = {}
        for site in group.consumers:
            name = self._sites[site.weight].name
            stream = simulator.dense_stream(simulator.segment_of(name))
            found[site.weight] = solver.gram(stream, name, Variant())
        return found

    def _refitted(self, keep: Mapping[ChannelGroup, Positions]) -> tuple[Weights, float]:
        """Effective weights in the dense shapes, columns of removed channels zero, and the output error."""
        simulator, solver = self.base.simulator, self.base.solver
        gone = _removed_inputs(keep)
        weights: Weights = {}
        stream = simulator.dense_stream(simulator.segments[0].name)
        self.progress.start(f"{NAME}: refit", len(simulator.segments))
        for segment in simulator.segments:
            change = Variant()
            for site in segment.linears:
                kept = np.setdiff1d(np.arange(site.in_features), gone.get(site.weight, []))
                if len(kept) == site.in_features and stream.dense and change.is_nothing:
                    continue
                gram = solver.gram(stream, site.name, change)
                layer, _ = on_kept_inputs(solver.affine(site), gram, kept)
                solved = Solved(DENSE, layer.weight.astype(np.float32), layer.bias)
                change = merged(change, effective(site, solved, None, kept))
            weights |= {name: w.astype(np.float32) for name, w in change.weights.items()}
            stream = simulator.advance(stream, change)
            self.progress.step(segment.name)
        return weights, simulator.output_error(stream)


def _removed_inputs(keep: Mapping[ChannelGroup, Positions]) -> dict[str, Positions]:
    """Columns of each weight that belong to removed units of any group."""
    gone: dict[str, list[Positions]] = {}
    for group, units in keep.items():
        for site in {c.weight: c for c in group.consumers}.values():
            part = group.of(site.weight, 1)
            assert part is not None  # a consumer is one by its columns
            removed = np.delete(part.positions, units, axis=0)
            gone.setdefault(site.weight, []).append(features_of(removed, site.taps).reshape(-1))
    return {weight: np.concatenate(parts) for weight, parts in gone.items()}
