"Graders take any text, agree with people, pass every gold answer, and survive hostile input."
import gzip, json, os, random, re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

from hypothesis import given, settings, strategies as st
import pytest

from cgd.answers import find_answer, last_boxed, last_number, to_number
from cgd.grade import GRADERS, grade, grade_many
from cgd.reading import one_spelling, read_answer
from cgd.plan import RunConfig
from cgd.rollouts import draft
from cgd.teacher import direct, refine

HERE = Path(__file__).parent
# The second and third were written and committed before strict had seen any of their pairs, and scored once (24 Nov 2026; no label was changed): strict
# agreed with 141 of 141 and with 108 of 113, together 98.0%. The five were right answers it could not read (see 11_grade); it was mended afterwards, so
# what is tested here is no first score any more. Whoever labelled them also wrote the grader: both share their conventions about units and percent signs.
CORPORA = 'grade_corpus.jsonl', 'grade_corpus_blind.jsonl', 'grade_corpus_blind2.jsonl'
FOLDER = os.environ.get('CGD_BENCH_DIR')
SETS = 'gsm8k_test', 'math500', 'minerva_math', 'olympiadbench_math', 'amc23', 'aime24', 'theoremqa'
FORMS = dict(itself='{}', boxed=r'Thus $\boxed{{{}}}$.', sentence='So the answer is {}.', dollars='${}$', full_stop='{}.', spaces='  {}  ')

pieces = st.sampled_from([r'\boxed', '{', '}', r'\{', r'\frac', '{1}', '-', '\u2212', '$', r'\$', '%', r'\%', ',', '.', '/', '0', '12', '1,234', ' ', r'\text{', 'a', '٣', '\x00', '\ud800',
                          'answer is ', '(', ')', '[', ']', r'\pm', r'\cup', r'\in', '=', '<', r'\le', r'\begin{pmatrix}', r'\end{pmatrix}', '&', r'\\', 'x', ' and ', 'cm', '^', '_', ':', '\n', '¤'])
texts = st.one_of(st.text(), st.lists(pieces, max_size=40).map(''.join))


def corpus(name:str) -> list[dict]:
    "Hand-labelled pairs: kind, reference, completion, outcome"
    return [json.loads(line) for line in (HERE/name).read_text(encoding='utf-8').splitlines()]


@settings(max_examples=500, deadline=None)
@given(texts, texts)
def test_no_text_raises(reference, completion):
    for grader in GRADERS.values():
        found = grader(reference, completion)
        assert found is None or found.outcome in ('right', 'wrong', 'no_answer')
    last_boxed(completion), last_number(completion), to_number(completion), find_answer(completion), read_answer(one_spelling(completion))


@settings(max_examples=300, deadline=None)
@given(st.integers(-10**9, 10**9))
def test_a_number_is_right_however_it_is_written(n):
    for text in (f'{n}', f'{n:,}', f'{n}.0', f'${n}$', f'{n}.', rf'\text{{{n}}}'):
        assert grade(str(n), rf'So it is \boxed{{{text}}}.').outcome == 'right'
        assert grade(str(n + 1), rf'\boxed{{{text}}}').outcome == 'wrong'
    assert grade(str(n), f'It is {n:,}.', 'flexible').outcome == 'right'


@pytest.fixture(scope='module')
def judged() -> dict:
    "Each row of both corpora with what strict and lenient say, graded once"
    rows = [dict(r, corpus=name) for name in CORPORA for r in corpus(name)]
    pairs = [(r['reference'], r['completion']) for r in rows]
    return [dict(r, strict=s.outcome, lenient=l.outcome) for r, s, l in zip(rows, grade_many(pairs, timeout=60.), grade_many(pairs, 'lenient', timeout=60.))]


@pytest.mark.parametrize('name', CORPORA)
def test_strict_agrees_with_the_labels(name, judged):
    rows = [r for r in judged if r['corpus'] == name]
    differ = [r for r in rows if r['strict'] != r['outcome']]
    assert len(differ) <= .02*len(rows), differ
    assert not [r for r in differ if r['outcome'] == 'wrong' and r['strict'] == 'right'], differ   # none of the false ones is accepted


def test_the_corpus_is_large_and_has_every_kind():
    by_hand, *blind = map(corpus, CORPORA)
    blind = [r for rows in blind for r in rows]
    assert len(by_hand) + len(blind) >= 300 and 3*len(blind) >= len(by_hand) + len(blind)
    assert {'fraction', 'interval', 'set', 'tuple', 'matrix', 'unit', 'percent', 'text', 'boxes', 'known_false'} <= {r['kind'] for r in blind} & {r['kind'] for r in by_hand}
    assert all(r['outcome'] == 'wrong' for r in by_hand + blind if r['kind'] == 'known_false')


def test_strict_reads_what_people_write():
    "Rows by kind, written beside the grader: each way to write an answer, and its wrong twins"
    rows = corpus('grade_kinds.jsonl')
    found = [g.outcome for g in grade_many([(r['reference'], r['completion']) for r in rows], timeout=60.)]
    differ = [r for r, f in zip(rows, found) if (f == 'right') != (r['outcome'] == 'right')]
    counts = Counter((r['kind'], r['outcome']) for r in rows)
    assert not differ, differ
    assert len(rows) > 1000 and all(counts[kind, 'right'] and counts[kind, 'wrong'] for kind, _ in counts), counts


def test_decimals_are_exact():
    same = [(r'\frac{10}{3}', r'\frac{1}{0.3}'), (r'\sqrt{0.5}', r'\frac{\sqrt2}{2}'), ('2^{0.5}', r'\sqrt{2}'),
            (r'\frac{x}{3}', r'\frac{0.1x}{0.3}'), (r'\frac{x}{7}', r'\frac{0.3x}{2.1}'), (r'0.7\pi', r'\frac{7\pi}{10}'),
            (r'\frac{0.1}{0.3}y', r'\frac{y}{3}'), ('e^{0.5}', r'\sqrt{e}'), (r'\ln 0.2', r'-\ln 5')]
    close = [(r'\frac{10}{3}', r'\frac{1}{0.30000001}'), (r'\sqrt{0.5}', '0.70710678118654752440'), ('2^{0.5}', '2^{0.500001}'),
             (r'\frac{x}{3}', '0.33333333333333333x')]
    both = [pair for a, b in same + close for pair in ((a, b), (b, a))]
    found = [g.outcome for g in grade_many([(a, rf'\boxed{{{b}}}') for a, b in both], timeout=60.)]
    assert found == ['right']*2*len(same) + ['wrong']*2*len(close), list(zip(both, found))


@pytest.mark.parametrize('gold', [r'\frac{\pi}{2}', r'\sqrt{3}', '(2, 9)', r'(-\infty, 4]', 'x^2 - 4x', r'12 \text{ cm}', 'C', 'Lima',
                                  r'\frac{3}{4}', '15', 'yes', 'Because 2 is the only even prime, as Euclid knew by 300.'])
def test_data_are_graded_by_what_fits_their_gold(gold):
    def answers(rows, store): return [SimpleNamespace(text=t, finish_reason='stop', completion_tokens=9, key='k') for t in texts]
    teacher = SimpleNamespace(name='t', preset='p', refine=answers, direct=answers)
    texts = [rf'So it is \boxed{{{gold}}}.', f'The answer is {gold.rstrip(".")}.', gold, 'I can not say.']
    asked = dict(problem_id='a', prompt='?', reference=gold, draft='?', critique='?', teacher='t', preset='p')
    rows = [dict(asked, row_id=str(i)) for i in range(4)]
    for done, column in ((refine(rows, teacher), 'refinement_grade'), (direct(rows, teacher), 'direct_grade')):
        assert [r[column] == 'right' for r in done] == [True, True, True, False], done
    assert RunConfig().grader == 'auto' and signature(draft).parameters['grader'].default == 'auto'


def test_lenient_accepts_what_strict_accepts(judged):
    both = Counter((r['strict'], r['lenient']) for r in judged)
    assert both['right', 'wrong'] == both['right', 'no_answer'] == 0 and both['wrong', 'right'] > 20, both


def test_the_same_text_graded_twenty_times_gives_the_same_score(judged):
    pairs = [(r['reference'], r['completion']) for r in judged[::20]]
    for grader in GRADERS:
        found = grade_many(pairs*20, grader, timeout=60.)   # a busy machine is no reason to differ
        assert len(pairs) > 20 and {tuple(found[i:i + len(pairs)]) for i in range(0, len(found), len(pairs))} == {tuple(found[:len(pairs)])}


def test_threads_may_grade_side_by_side(judged):
    rows = [r for r in judged if r['kind'] in ('expression', 'interval')][::4]
    with ThreadPoolExecutor(3) as threads: found = list(threads.map(lambda _: [g.outcome for g in grade_many([(r['reference'], r['completion']) for r in rows], workers=1)], range(3)))
    assert found == [[r['strict'] for r in rows]]*3


def test_hostile_items_take_no_neighbour_with_them():
    hostile = [('5', r'\boxed{%s}' % x) for x in ('9^{9^{9^{9^{9}}}}', '{' * 2000 + '1' + '}' * 2000, '(10^{8})!', r'\sqrt' * 3000 + '{2}', '2^{-10^{9}}', '\x00', '(' * 5000)]
    pairs = [p for h in hostile for p in (h, (r'2\sqrt{3}', r'\boxed{\sqrt{12}}'))]
    found = grade_many(pairs, timeout=2, workers=2)
    assert len(found) == len(pairs)
    assert [g.outcome for g in found[1::2]] == ['right'] * len(hostile)  # every neighbour is graded
    assert 'right' not in [g.outcome for g in found[::2]]


def bench(name:str, long:bool) -> list[dict]:
    "A benchmark's rows that can be graded from text; a sample of them unless `long`"
    if not FOLDER: pytest.skip('CGD_BENCH_DIR is not set, so there is no folder of benchmarks')
    with gzip.open(Path(FOLDER)/f'{name}.jsonl.gz', 'rt', encoding='utf-8') as lines: rows = [json.loads(line) for line in lines]
    rows = [r for r in rows if not r.get('picture_required')]
    return rows if long else random.Random(0).sample(rows, min(60, len(rows)))


def written(gold:str, form:str) -> str:
    return FORMS[form].format(re.sub(r'(?<!\\)\$', '', gold) if form == 'dollars' else gold)


@pytest.mark.parametrize('name', SETS)
def test_every_gold_answer_passes_in_every_form(name, long):
    cases = [(r['answer'], form, written(r['answer'], form)) for r in bench(name, long) for form in FORMS]
    failed = [case for case, g in zip(cases, grade_many([(gold, text) for gold, _, text in cases])) if g.outcome != 'right']
    print(f'{name}: {len(cases) - len(failed)} of {len(cases)} right')
    assert len(failed) <= .005*len(cases), failed


def kind(row:dict) -> str:
    "What sort of answer a row has: the set's own word for it, or its shape"
    return row.get('answer_type') or ('number' if to_number(row['answer']) is not None else read_answer(one_spelling(row['answer'])).kind)


@pytest.mark.parametrize('name', SETS)
def test_no_gold_answer_passes_for_another(name, long):
    equal = {pair for a, b, _ in json.loads((HERE/'grade_equal_golds.json').read_text(encoding='utf-8')) for pair in ((a, b), (b, a))}   # checked by hand
    groups = defaultdict(list)
    for row in bench(name, long): groups[kind(row)].append(row['answer'])
    steps = (1, 2, 7) if long else (1,)
    pairs = [(a, b) for group, step in product(groups.values(), steps) for a, b in zip(group, group[step:] + group[:step]) if a != b]
    accepted = [pair for pair, g in zip(pairs, grade_many([(a, rf'\boxed{{{b}}}') for a, b in pairs])) if g.outcome != 'wrong']
    print(f'{name}: {len(pairs)} pairs, {len(accepted)} not wrong')
    assert set(accepted) <= equal, set(accepted) - equal
