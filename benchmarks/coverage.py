"""How often our 95% intervals hold the truth: simulates studies whose true difference is known, and counts.

    python benchmarks/coverage.py [--simulations 10000] [--seed 0] [--out data/results/coverage.csv]

An answer is right where a sum of normal draws is above a threshold: how easy its problem is (the same for both methods), how well the method
suits the problem, how good the training seed is, and the chance of the single answer. So the share of right answers over all problems and seeds
is known exactly. How much each draw weighs is estimated from two methods of the CPU study, five seeds each (`--outcomes`), and printed first.
`scatter`: how far the seeds of the two methods lie apart, a standard deviation in points; `shared`: the part of it that a seed's number
gives to both methods (below zero: to one and takes from the other); `low` and `high` bound Wilson's 95% interval of `covered`; `width` is the mean one of the interval that is tested.
Measures: `difference` is of two methods (`crossed`), `accuracy` of one, `checkpoints` of two single trainings that are taken as they are (`compare`).
Needs about three minutes of one core.
"""
import argparse
from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm

from cgd.core import write_atomic
from cgd.stats import _Z, _crossed_parts, _half, _newcombe, _share_interval, wilson

SIZES = (5, 1000), (3, 200), (2, 500)   # training seeds, problems
LARGE = 7.                              # points: the largest scatter among the methods of the CPU study is 7.3


def matrix(outcomes, method: str) -> np.ndarray:
    "Right or not: seeds x problems"
    own = outcomes[(outcomes.arm == 'withheld') & (outcomes.method == method) & (outcomes.benchmark == 'test')]
    return own.assign(right=own.flexible == 'right').pivot(index='seed', columns='id', values='right').to_numpy(float)


def correlation(a: np.ndarray, b: np.ndarray, pairs: list) -> float:
    "Of what is behind the outcomes (two normal variables with thresholds), from how often two answers to a problem are both right"
    p, q = a.mean(), b.mean()
    both = np.mean([np.cov(a[i], b[j])[0, 1] for i, j in pairs]) + p*q
    def over(r): return multivariate_normal.cdf(norm.ppf([p, q]), cov=[[1, r], [r, 1]]) - both
    return brentq(over, -.99, .99)


def scatter(y: np.ndarray) -> float:
    "Standard deviation of the seeds, in points, without the chance in single answers"
    k, n = y.shape
    left = y - y.mean(0) - y.mean(1, keepdims=True) + y.mean()
    return 100 * max(y.mean(1).var(ddof=1) - (left**2).sum() / ((k - 1) * (n - 1)) / n, 0)**.5


def estimate(outcomes) -> dict:
    "What the simulation needs, from CGD and its control in the CPU study, by the last number"
    a, b = (matrix(outcomes, method) for method in ('cgd', 'dsft_refined'))
    k = range(len(a))
    within = np.mean([correlation(y, y, list(combinations(k, 2))) for y in (a, b)])
    return dict(shares=(a.mean(), b.mean()), scatter=(scatter(a), scatter(b)), within=within,
                across=correlation(a, b, [(i, j) for i in k for j in k]))


def draw(rng, times: int, seeds: int, problems: int, shares: tuple, points: tuple, shared: float, found: dict) -> np.ndarray:
    "Outcomes of two methods: studies x methods x seeds x problems"
    def normal(*shape, variance): return rng.standard_normal((times, *shape), dtype=np.float32) * np.float32(variance**.5)
    limits = norm.ppf(shares)
    spread = (np.array(points) / 100 / norm.pdf(limits))[:, None, None]
    both = normal(1, seeds, 1, variance=abs(shared)) * np.array([1, 1 if shared > 0 else -1])[:, None, None]
    quality = spread * (normal(2, seeds, 1, variance=1 - abs(shared)) + both)
    ease = normal(1, 1, problems, variance=found['across']) + normal(2, 1, problems, variance=found['within'] - found['across'])
    chance = normal(2, seeds, problems, variance=1 - found['within'])
    return (ease + chance + quality > -limits[:, None, None] * (1 + spread**2)**.5).astype(float)


def crossed_intervals(methods: list) -> np.ndarray:
    "Of a difference, or of the accuracy of one method: studies x (low, high)"
    values, *parts = _crossed_parts(methods)
    middle, half = values.mean(-1), _half(parts)
    if len(methods) > 1: return np.stack([middle - half, middle + half], -1)
    return np.array([_share_interval(m, m*(1 - m) / (h/_Z)**2) for m, h in zip(middle, half)])


def checkpoint_intervals(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    "Newcombe's, as `compare` has it for one sample a problem: studies x (low, high)"
    counts = list(zip(*(map(int, c.sum(-1)) for c in (a*b, a*(1 - b), (1 - a)*b, (1 - a)*(1 - b)))))
    made = {key: _newcombe(*key) for key in Counter(counts)}
    return np.array([made[key] for key in counts])


def intervals(measure: str, y: np.ndarray) -> np.ndarray:
    if measure == 'checkpoints': return checkpoint_intervals(y[:, 0, 0], y[:, 1, 0])
    return crossed_intervals([y[:, 0], y[:, 1]] if measure == 'difference' else [y[:, 0]])


def cases(found: dict) -> list[dict]:
    "All that is simulated"
    low, high = found['shares']
    made, as_found, three = [], found['scatter'], (high + .03, high)
    for seeds, problems in SIZES:
        size = dict(seeds=seeds, problems=problems)
        kinds = [((high, high), as_found, 0), (three, as_found, 0), ((low, high), as_found, 0), (three, (0, 0), 0),
                 (three, (LARGE,)*2, 0), (three, (0, LARGE), 0), (three, as_found, .5), (three, as_found, -.5)]
        made += [dict(measure='difference', **size, shares=s, points=p, shared=c) for s, p, c in kinds]
        made += [dict(measure='accuracy', **size, shares=(s, s), points=(p, p), shared=0) for s, p in zip((low, high), as_found)]
    for _, problems in SIZES:
        made += [dict(measure='checkpoints', seeds=1, problems=problems, shares=s, points=(0, 0), shared=0)
                 for s in ((high, high), three, (low, high))]
    return made


def line(case: dict, found: dict, simulations: int, rng) -> dict:
    "How often the intervals of one case hold the truth"
    measure, (a, b), settings = case['measure'], case['shares'], {k: v for k, v in case.items() if k != 'measure'}
    truth, ends, size = a if measure == 'accuracy' else a - b, [], max(1, int(2e6 / (2 * case['seeds'] * case['problems'])))
    while (left := simulations - sum(map(len, ends))) > 0:
        ends.append(intervals(measure, draw(rng, min(size, left), found=found, **settings)))
    low, high = np.concatenate(ends).T
    held = int(((low <= truth) & (truth <= high)).sum())
    spread = {'difference': '{:.1f} and {:.1f}', 'accuracy': '{:.1f}'}.get(measure, '').format(*case['points'])
    known = dict(measure=measure, seeds=case['seeds'], problems=case['problems'], scatter=spread, shared=case['shared'])
    known |= dict(truth=truth, simulations=simulations, covered=held/simulations)
    return known | dict(zip(('low', 'high'), wilson(held, simulations)), width=(high - low).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--simulations', type=int, default=10_000, help='studies a line of the table')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--outcomes', default='data/results/cpu_study/outcomes.parquet')
    parser.add_argument('--out', default='data/results/coverage.csv')
    args = parser.parse_args()
    found = estimate(pd.read_parquet(args.outcomes))
    print({k: np.round(v, 3).tolist() for k, v in found.items()})
    table = pd.DataFrame([line(case, found, args.simulations, np.random.default_rng([args.seed, i]))
                          for i, case in enumerate(cases(found))])
    write_atomic(args.out, table.to_csv(index=False, float_format='%.4f'))
    print(table.round(4).to_string(index=False))


if __name__ == '__main__': main()
