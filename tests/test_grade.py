"Graders take any text: nothing raises, and what is decided at once is decided soon."
from hypothesis import given, settings, strategies as st
import pytest

from cgd.grade import GRADERS, Grade, grade, grade_many, last_boxed, last_number, to_number

pieces = st.sampled_from([r'\boxed', '{', '}', r'\{', r'\frac', '{1}', '-', '\u2212', '$', r'\$', '%', r'\%', ',', '.', '/', '0', '12', '1,234', ' ', r'\text{', 'a', '٣', '\x00', '\ud800'])
texts = st.one_of(st.text(), st.lists(pieces, max_size=40).map(''.join))


@settings(max_examples=500, deadline=None)
@given(texts, texts)
def test_no_text_raises(reference, completion):
    for grader in GRADERS.values():
        found = grader(reference, completion)
        assert found is None or found.outcome in ('right', 'wrong', 'no_answer')
    last_boxed(completion), last_number(completion), to_number(completion)


@settings(max_examples=300, deadline=None)
@given(st.integers(-10**9, 10**9))
def test_a_number_is_right_however_it_is_written(n):
    for text in (f'{n}', f'{n:,}', f'{n}.0', f'${n}$', f'{n}.', rf'\text{{{n}}}'):
        assert grade(str(n), rf'So it is \boxed{{{text}}}.').outcome == 'right'
        assert grade(str(n + 1), rf'\boxed{{{text}}}').outcome == 'wrong'
    assert grade(str(n), f'It is {n:,}.', 'flexible').outcome == 'right'


def test_hostile_items_cost_their_timeout_and_no_more():
    hostile = [('5', r'\boxed{%s}' % x) for x in ('9^{9^{9^{9^{9}}}}', '{' * 2000 + '1' + '}' * 2000, '(10^{8})!', r'\sqrt' * 3000 + '{2}', '2^{-10^{9}}', '\x00', '(' * 5000)]
    pairs = [p for h in hostile for p in (h, (r'2\sqrt{3}', r'\boxed{\sqrt{12}}'))]
    found = grade_many(pairs, timeout=2, workers=2)
    assert len(found) == len(pairs)
    assert [g.outcome for g in found[1::2]] == ['right'] * len(hostile)  # every neighbour is graded
    assert 'right' not in [g.outcome for g in found[::2]]


@pytest.mark.parametrize('reference, answer, outcome', [
    (r'\frac{1}{2}', '0.5', 'right'), ('10', r'10\%', 'wrong'), (r'x \in [1,2)', r'x \in [1,2]', 'wrong'), (r'\frac{\pi}{2}', r'\pi/2', 'right'),
    (r'\{1,2,3\}', r'\{3,2,1\}', 'right'), ('(1,2)', '(2,1)', 'wrong'), ('even', r'\text{even}', 'right'), ('x^2+2x+1', '(x+1)^2', 'right')])
def test_known_pairs(reference, answer, outcome):
    assert grade(reference, rf'\boxed{{{answer}}}').outcome == outcome
