"""The whole search against a model whose true errors are known and differ from the tables."""

from codesign.pareto import hypervolume
from codesign.search import Correction, Observation, changes, learn, propose, solve


def pairs(truth, picks):
    return [(s, -2 * e) for s, e in map(truth.totals, picks)]


def test_a_few_rounds_come_close_to_the_true_frontier(encoder):
    tables, truth = encoder(), encoder(int8=4.0, sparse=0.4)
    reference = (1.3 * truth.totals((0,) * 12)[0], -0.5)
    ideal = hypervolume(pairs(truth, [p.picks for p in solve(truth)]), reference)
    correction, seen, volumes, found = Correction({}), [], [], []
    for round in range(3):
        believed = correction.apply(tables)
        plans = propose(believed, correction, [o.picks for o in seen], 6)
        seen += [
            Observation(p.picks, truth.totals(p.picks)[1], 2 * truth.totals(p.picks)[1])
            for p in plans
        ]
        correction = learn(tables, seen)
        found += changes(believed, correction.apply(tables), (4e-3, 8e-3, 1.2e-2), round)
        volumes.append(hypervolume(pairs(truth, [o.picks for o in seen]), reference) / ideal)
    assert volumes[0] < volumes[-1]
    assert volumes[-1] > 0.93
    assert any(c.round == 0 and "int8" in c.because for c in found)
