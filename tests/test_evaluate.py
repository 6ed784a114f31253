"Metrics equal brute force, intervals cover, tests see what they promise; grading is repeatable; planted contamination is found."
import random
import time
from itertools import combinations
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from cgd.benchmarks import BENCHMARKS, Items
from cgd.core import CgdError, read_table, write_table
from cgd.contamination import find_contamination, decontaminate
from cgd.data import load_problems
from cgd.evaluate import EvalConfig, changed_outcomes, grade_records, messages, self_refine, summarise
from cgd.store import Store, sessions
from cgd.engines import open_engine
from cgd.grade import Grade
from cgd.methods import _COLUMNS
from cgd.stats import (
    _mcnemar, _power, _vote, compare, crossed, detectable, holm, maj_at_k, pass_at_k, resampled, wilson)


def records(hits, **more) -> list[dict]:
    "One record for each problem and sample of a table of hits"
    return [dict(id=str(i), sample=k, strict='right' if hit else 'wrong', strict_answer=str(int(hit)), **more) for i, row in enumerate(hits) for k, hit in enumerate(np.atleast_1d(row))]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 6))
def test_pass_at_k_equals_brute_force(hits, k):
    found = pass_at_k(records(hits), k)
    assert list(found.values()) == pytest.approx([mean(any(some) for some in combinations(row, k)) for row in hits])
    assert list(pass_at_k(records(hits), 1).values()) == pytest.approx([mean(row) for row in hits])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(['1', '1.0', '2', 'x+1', 'x + 1', None]), min_size=1, max_size=9))
def test_a_vote_goes_to_the_most_frequent_answer_and_a_tie_to_the_first(answers):
    won = _vote([dict(strict_answer=a, at=i) for i, a in enumerate(answers)])['at']
    same = {'1': '1', '1.0': '1', '2': '2', 'x+1': 'x+1', 'x + 1': 'x+1', None: None}
    ballots = [same[a] for a in answers]
    given_ = [b for b in ballots if b is not None]
    if not given_: assert won == 0; return
    most = max(map(given_.count, given_))
    assert won == next(i for i, b in enumerate(ballots) if b is not None and given_.count(b) == most)


def test_majority_at_k_uses_every_whole_group():
    assert maj_at_k(records([[1, 1, 0, 0, 0, 1, 1]]), 3) == {'0': .5}   # the seventh sample has no group
    with pytest.raises(CgdError, match='8 samples wanted and 0 has 7'): maj_at_k(records([[1] * 7]), 8)


@pytest.mark.parametrize('n', [40, 500])
def test_wilson_covers(n):
    from scipy.stats import binom
    low, high = np.array([wilson(k, n) for k in range(n + 1)]).T
    cover = [binom.pmf(np.flatnonzero((low <= p) & (p <= high)), n, p).sum() for p in np.linspace(.05, .95, 91)]
    assert abs(mean(cover) - .95) < .01 and min(cover) > .89


def test_the_bootstrap_over_problems_covers_and_one_over_answers_does_not():
    clustered, pooled = [], []
    for s in range(100):
        rng = np.random.default_rng(s)
        hits = rng.random((60, 8)) < rng.beta(.5, .5, (60, 1))        # eight answers to each problem, much alike
        low, high = resampled(list(hits.mean(1)))
        clustered.append(low <= .5 <= high)
        low, high = wilson(int(hits.sum()), hits.size)
        pooled.append(low <= .5 <= high)
    assert mean(clustered) > .9 and mean(pooled) < .75


def trained(seed, seeds, ease, scatter, share=0.) -> list[list[dict]]:
    "A method's runs, one for each training seed, on problems of given ease"
    rng = np.random.default_rng(seed)
    return [records(rng.random(len(ease)) < ease + share + rng.normal(0, scatter)) for _ in range(seeds)]


@pytest.mark.parametrize('seeds, scatter', [(3, .06), (5, 0.)])
def test_crossed_intervals_cover(seeds, scatter):
    covered, equal = [], []
    for s in range(60):
        ease = np.random.default_rng(10**6 + s).beta(1, 1, 60)
        a, b = trained(2*s, seeds, ease, scatter), trained(2*s + 1, seeds, ease, scatter)
        one, two = crossed(a), crossed(a, b)
        covered.append(one['low'] <= .5 <= one['high'])
        equal.append(two['low'] <= 0 <= two['high'])
    assert mean(covered) >= .9 and mean(equal) >= .9


def test_crossed_sees_a_better_method():
    ease = np.random.default_rng(0).beta(1, 1, 300)
    found = [crossed(trained(s, 5, ease, .02, .12), trained(s + 100, 5, ease, .02)) for s in range(12)]
    assert mean(f['low'] > 0 for f in found) > .8 and all((f['p'] < .05) == (f['low'] > 0 or f['high'] < 0) for f in found if abs(f['p'] - .05) > .01)


@pytest.mark.parametrize('n, p, alike', [(40, .5, 0.), (200, .25, .5), (500, .5, .8)])
def test_two_models_are_told_apart_at_the_stated_power(n, p, alike):
    gain, rng, seen, boot = detectable(n, p, alike=alike), np.random.default_rng(1), [], []
    apart = (1 - alike) * (p*(1 - p - gain) + (p + gain)*(1 - p)) + alike*gain
    both = p - (apart - gain)/2
    for _ in range(200):
        fate = rng.choice(4, n, p=[both, (apart + gain)/2, (apart - gain)/2, 1 - both - apart])
        a, b = records(fate < 2), records((fate == 0) | (fate == 2))
        seen.append(compare(a, b)['p'] < .05)
        if n == 40 or len(boot) < 10: boot.append(compare(a, b, resample=True)['p'] < .05)
    assert abs(mean(seen) - .8) < .08
    assert mean(boot) > .6                        # the bootstrap is no weaker
    assert _power(n, p, p, alike) <= .05


def test_mcnemar_power_equals_the_sum_over_all_outcomes():
    from math import comb
    n, p, q = 12, .3, .8
    w, l = q*(1 - p), p*(1 - q)
    exact = sum(comb(n, i) * comb(n - i, j) * w**i * l**j * (1 - w - l)**(n - i - j) for i in range(n + 1) for j in range(n + 1 - i) if _mcnemar(i, j) < .05)
    assert _power(n, p, q) == pytest.approx(exact)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_stepping_down_rejects(ps):
    order, rejected = sorted(range(len(ps)), key=lambda i: ps[i]), set()
    for rank, i in enumerate(order):
        if ps[i] * (len(ps) - rank) >= .05: break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(ps)) if p < .05} == rejected


@pytest.fixture(scope='module')
def stored(tmp_path_factory) -> list[dict]:
    "Answers of the embedded student, as they come back from a file"
    problems = load_problems('test', limit=12).rows
    folder = tmp_path_factory.mktemp('records')
    with open_engine(f'recorded:{Path(__file__).parent.parent}/nbs/recordings/37_evaluate.jsonl') as engine, Store(folder/'store.sqlite') as store:
        tables = self_refine(engine, problems, EvalConfig(), store, rounds=1)
        first = sum(s['requests'] for s in sessions(store))
        longer = self_refine(engine, problems, EvalConfig(), store, rounds=2)
        assert first == 36 and sum(s['requests'] for s in sessions(store)) == 60   # a further round asks for itself alone
    assert longer[:2] == tables
    return read_table(write_table([{c: v for c, v in r.items() if c != 'critique'} for r in longer[-1]], folder/'records.parquet'))


def test_the_same_text_graded_twenty_times_gives_the_same(stored):
    hard = [dict(id='h', completion=r'\boxed{\frac{\sqrt{2}}{2}}', reference=r'2^{-1/2}', sample=0)]
    first = grade_records(stored + hard)
    for _ in range(19): assert grade_records(stored) == first[:-1]
    assert first[:-1] == stored and first[-1]['strict'] == 'right' and changed_outcomes(stored, first[:-1]) == []


def test_regrading_needs_nothing_but_text_and_keeps_no_old_outcome(stored):
    forged = [{**r, 'strict': 'right', 'strict_answer': 'x', 'lenient': 'right', 'lenient_answer': 'x'} for r in stored]
    assert grade_records(forged) == grade_records(stored)
    bare = [{k: r[k] for k in ('id', 'sample', 'completion', 'reference')} for r in stored]
    assert [r['flexible'] for r in grade_records(bare)] == [r['flexible'] for r in stored]
    even = {'even': lambda rows: [Grade('right' if len(r['completion']) % 2 == 0 else 'wrong', None) for r in rows]}
    assert [r['even'] == 'right' for r in grade_records(bare, even)] == [len(r['completion']) % 2 == 0 for r in bare]
    assert summarise([r | dict(completion_tokens=1, finish_reason='stop') for r in grade_records(bare, even)], ('even',))['n'] == len(bare)
    with pytest.raises(ValueError): grade_records(bare, {'lazy': lambda rows: []})


def paragraphs(n, seed, words=40) -> list[str]:
    rng = random.Random(seed)
    known = [''.join(rng.choices('abcdefghijklmnop', k=rng.randint(2, 8))) for _ in range(3000)]
    return [' '.join(rng.choices(known, k=words - 4) + [str(rng.randint(2, 99)) for _ in range(4)]) for _ in range(n)]


def test_planted_contamination_is_found_and_nothing_else():
    clean, held_out, rng = paragraphs(400, 1), paragraphs(400, 2), random.Random(3)
    tests = [dict(problem_id=f't{i}', prompt=t) for i, t in enumerate(held_out)]
    def reworded(words): return ' '.join(['oops' if i in (0, 13, 25) else w for i, w in enumerate(words[:-2])] + words[:-3:-1])   # no 13 in a row are left
    plant = {'same': lambda t: dict(prompt=f'  {t.upper()} .'.replace(' ', '\n ')),
             'run': lambda t: dict(prompt='Short.', draft=f'The problem says: "{t.title()}". So the answer is 7.'),
             'near': lambda t: dict(prompt='Short.', critique=reworded(t.split())),
             'numbers': lambda t: dict(prompt=' '.join(t.split()[:-4] + ['1000', '2000', '3000', '4000']))}
    rows, expected = [dict(problem_id=f'c{i}', prompt=t) for i, t in enumerate(clean)], {}
    for kind, make in plant.items():
        for i in rng.sample(range(400), 20):
            rows.append(dict(problem_id=f'{kind}{i}', **make(held_out[i])))
            expected[f'{kind}{i}', f't{i}'] = kind
    found = {(h['row'], h['test']): h['kind'] for h in find_contamination(rows, ('prompt', 'draft', 'critique'), tests)}
    assert found == expected
    kept, report = decontaminate(rows, tests)
    assert {r['problem_id'] for r in kept} == {r['problem_id'] for r in rows} - {row for (row, _), kind in expected.items() if kind != 'numbers'}
    assert {h['row'] for h in report} == {row for (row, _), kind in expected.items() if kind != 'numbers'}


def test_every_text_that_a_method_learns_or_shows_is_searched():
    test = dict(problem_id='t', prompt=paragraphs(1, 1)[0])
    for column in _COLUMNS:
        assert decontaminate([dict(problem_id='p', prompt='Short.') | {column: f'As it says: {test["prompt"]}'}], [test])[0] == [], column


def test_ten_thousand_texts_against_as_many_tests_take_seconds(long):
    n = 10_000 if long else 2000
    start = time.process_time()
    assert find_contamination([dict(problem_id=str(i), prompt=t) for i, t in enumerate(paragraphs(n, 4))], ('prompt',), [dict(problem_id=str(i), prompt=t) for i, t in enumerate(paragraphs(n, 5))]) == []
    assert time.process_time() - start < 60


def test_a_wording_that_a_benchmark_would_not_heed_is_refused():
    letters = next(b for b in BENCHMARKS.values() if b.kind == 'letter')
    with pytest.raises(CgdError, match=f'template: {letters.name} has a wording of its own'): messages(Items(letters, []), {}, EvalConfig(template='Just say it. {prompt}'))
