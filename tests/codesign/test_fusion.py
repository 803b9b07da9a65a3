"""The fastest partition of a chain, found from the times of its parts."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import inf

import numpy as np
import pytest

from codesign.fusion import CALL, KernelChain, Planner
from codesign.kernels import Kernel, kernels
from passes.lower import lower
from targets.target import find

TARGET = find("host")


def chain_of(spans, default):
    """A chain whose kernels are only names."""
    parts = {s: Kernel(f"{s[0]}-{s[1]}", None, f"k{s[0]}{s[1]}", 1) for s in spans}
    return KernelChain("chain", "a+b | c", parts, default)


def every(n):
    return [(i, j) for i in range(n) for j in range(i + 1, n + 1)]


def partitions(n):
    """All partitions of n atoms into parts."""
    for bits in range(2 ** (n - 1)):
        ends = [0, *(i + 1 for i in range(n - 1) if bits >> i & 1), n]
        yield tuple(pairwise(ends))


@pytest.mark.parametrize("seed", range(8))
def test_best_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    chain = chain_of(every(5), ((0, 3), (3, 5)))
    times = {
        k.hash: float(t)
        for k, t in zip(chain.parts.values(), rng.uniform(1e-6, 9e-6, 15), strict=True)
    }
    choice = chain.best(times.__getitem__)
    costs = {p: sum(times[f"{a}-{b}"] + CALL for a, b in p) for p in partitions(5)}
    assert choice.seconds == pytest.approx(min(costs.values()))
    assert choice.default == pytest.approx(costs[chain.default])
    assert choice.counts() == Counter(f"{a}-{b}" for a, b in choice.parts)


def test_relax_keeps_what_is_not_clearly_beaten():
    chain = chain_of(every(3), ((0, 2), (2, 3)))
    times = dict.fromkeys((k.hash for k in chain.parts.values()), 1.0)
    times |= {"0-3": 1.97}
    assert chain.best(times.__getitem__).parts == chain.default
    times |= {"0-3": 1.9}
    choice = chain.best(times.__getitem__)
    assert choice.parts == ((0, 3),)
    assert choice.to_json() == {
        "chain": "a+b | c", "kept": "k03", "us": pytest.approx(1.9e6, 1e-5),
        "default_us": pytest.approx(2e6, 1e-5), "changed": True, "calls": 1,
    }  # fmt: skip


def test_what_was_not_measured_is_not_chosen():
    chain = chain_of(every(3), ((0, 2), (2, 3)))
    known = {"0-2": 1.0, "2-3": 1.0}
    choice = chain.best(lambda kernel: known.get(kernel, inf))
    assert (choice.parts, choice.seconds) == (chain.default, pytest.approx(2.0, 1e-5))
    broken = chain.best(lambda kernel: {"0-3": 1.0}.get(kernel, inf))
    assert broken.parts == ((0, 3),)


def test_cuts_and_the_kernels_they_need():
    chain = chain_of([(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)], ((0, 2), (2, 3)))
    assert chain.cuts == [1]
    assert {k.hash for k in chain.kernels()} == {"0-2", "2-3"}
    assert {k.hash for k in chain.kernels([1])} == {"0-1", "0-2", "1-2", "1-3", "2-3"}


def test_units_are_the_kernels_of_the_model(encoder):
    net = encoder(layers=2)
    wanted = {k.hash: k.count for k in kernels(lower(net.model, TARGET))}
    plain = Planner(TARGET, enabled=False).units(net.model)
    assert {u.hash: u.count for u in plain} == wanted
    units = Planner(TARGET).units(net.model)
    chains = [u for u in units if isinstance(u, KernelChain)]
    total = Counter({u.hash: u.count for u in units if isinstance(u, Kernel)})
    for chain in chains:
        for span in chain.default:
            total[chain.parts[span].hash] += chain.count
    assert total == Counter(wanted)
    assert {c.name for c in chains} >= {"linear+add+add | layer_norm", "linear+add+gelu"}


def test_the_model_is_made_of_the_chosen_kernels(encoder):
    plan = Planner(TARGET).plan(encoder(layers=2).model)
    chain = next(c for c in plan.chains if c.name == "linear+add+add | layer_norm")
    fast = {k.hash: 1.0 for c in plan.chains for k in c.kernels()}
    fast |= {chain.parts[0, 1].hash: 0.1, chain.parts[1, 4].hash: 0.1}
    lowered, chosen = plan.fused(lambda kernel: fast.get(kernel, inf))
    found = {k.hash: k.count for k in kernels(lowered)}
    assert found[chain.parts[0, 1].hash] == 2
    (changed,) = [c.to_json() for c in chosen if c.chain.hash == chain.hash]
    assert changed["kept"] == "linear | add_add_layer_norm"
    unchanged, _ = plan.fused(lambda kernel: 1.0 if kernel in fast else inf)
    assert {k.hash for k in kernels(unchanged)} >= {k.hash for k in kernels(plan.default)} - {
        chain.parts[s].hash for s in chain.default
    }
