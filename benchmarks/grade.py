"""Our strict grader against math-verify on the same 10,000 ordinary answers, then with hostile answers mixed in.

    python benchmarks/grade.py [--n 10000] [--repeats 3] [--workers N] [--timeout 2] [--out data/results/grade.csv]

The answers are made up, in the proportions of mathematics benchmarks: whole numbers and decimals most, then fractions, roots and multiples of
pi, tuples, intervals, sets, polynomials, words; half are right, many of them differently written, and all stand in a box at the end of a sentence.
math-verify runs as its documentation shows it, in this process, with its own time limits; ours runs as `cgd` calls it, and once more on those
pairs alone that need algebra, with one worker. Rates are medians of the rounds, taken in turns; loading is not timed for math-verify and is for
ours, whose workers start anew each time.

Then hostile answers (towers of powers, 2,000 braces, huge factorials and more) are mixed into ordinary ones: none may be lost, and graded one by
one none may take its time limit and a second more (the start of its worker, timed apart, taken off).
"""
import argparse
import os
import platform
import random
import time
from collections import Counter

import pandas as pd

from cgd.grade import grade_many, strict

HOSTILE = ['9^{9^{9^{9^{9}}}}', r'2^{2^{2^{2^{2^{2^{2}}}}}}', '(10^{8})!', '((20!)!)!', '{' * 2000 + '1' + '}' * 2000, '(' * 2000 + 'x' + ')' * 2000, r'\sqrt' * 3000 + '{2}', '2^{-10^{9}}',
           r'\sum_{k=1}^{10^{12}} \frac{1}{k!}', 'x^{' * 500 + '2' + '}' * 500, r'\frac{1}{' * 300 + '2' + '}' * 300, '+'.join(f'x^{{{k}}}' for k in range(2000)), r'\binom{10^{9}}{10^{8}}', '1' * 100_000,
           r'\int_0^1 x^{x^{x}} \sin(x^{x}) dx', r'(x+1)^{10^{7}}', '1,' * 5000 + '1', r'\prod_{k=1}^{10^{9}} k', '\x00\ud800', r'10^{10^{10}} + 1']


def answers(rng: random.Random) -> tuple[str, str, str]:
    "A gold answer, the same differently written, another one"
    a, b, c = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 9)
    kind = rng.choices(['whole', 'decimal', 'thousands', 'fraction', 'root', 'pi', 'tuple', 'interval', 'set', 'polynomial', 'word', 'equation'], [40, 8, 6, 14, 7, 5, 5, 3, 4, 4, 2, 2])[0]
    return dict(whole=(f'{a*b}', f'{a*b}', f'{a*b + c}'), decimal=(f'{a}.{c}', f'{a}.{c}0', f'{a}.{c - 1}'), thousands=(f'{1000*a + b}', f'{1000*a + b:,}', f'{1000*b + a + 1}'),
                fraction=(rf'\frac{{{a}}}{{{b}}}', rf'\dfrac{{{c*a}}}{{{c*b}}}', rf'\frac{{{a + 1}}}{{{b}}}'), root=(rf'{c}\sqrt{{{a}}}', rf'\sqrt{{{c*c*a}}}', rf'{c}\sqrt{{{a + 1}}}'),
                pi=(rf'\frac{{{a}\pi}}{{{c}}}', rf'\frac{{{a}}}{{{c}}}\pi', rf'\frac{{{a + 1}\pi}}{{{c}}}'), tuple=(f'({a}, -{b})', rf'\left({a},-{b}\right)', f'(-{b}, {a})'),
                interval=(f'[{a}, {a + b})', rf'\left[{a},{a + b}\right)', f'({a}, {a + b})'), set=(f'{a}, -{b}', f'-{b}, {a}', f'{a}, {b}'),
                polynomial=(f'x^2+{a + b}x+{a*b}', f'(x+{a})(x+{b})', f'(x-{a})(x+{b})'), word=(r'\text{east}', 'east', r'\text{west}'),
                equation=(f'y = {a}x + {b}', f'y = {b} + {a}x', f'y = {a}x - {b}'))[kind]


def pairs(n: int, seed: int) -> list[tuple[str, str, bool]]:
    "Reference, completion, and whether it is right"
    rng, made = random.Random(seed), []
    for _ in range(n):
        gold, same, other = answers(rng)
        right = rng.random() < .5
        made.append((gold, rf'We put the two together and find that it is $\boxed{{{same if right else other}}}$.', right))
    return made


def by_math_verify(items: list) -> list[bool]:
    from math_verify import parse, verify
    return [verify(parse(f'${gold}$'), parse(text)) for gold, text, _ in items]


def by_us(items: list, workers: int | None) -> list[bool]: return [g.right for g in grade_many([(gold, text) for gold, text, _ in items], workers=workers)]


def rate(how, items: list) -> tuple[float, float]:
    "Answers a second; share graded as they were made"
    start = time.perf_counter()
    found = how(items)
    return len(items) / (time.perf_counter() - start), sum(f == right for f, (*_, right) in zip(found, items)) / len(items)


def speed(n: int, repeats: int, workers: int | None) -> pd.DataFrame:
    by_math_verify(pairs(20, -1))                                           # loads
    rounds = []
    for turn in range(repeats):
        items = pairs(n, turn)
        hard = [item for item in items if strict(*item[:2]) is None]
        for name, how, some in (('math-verify', by_math_verify, items), ('cgd strict', lambda i: by_us(i, workers), items),
                                ('math-verify, algebra only', by_math_verify, hard), ('cgd strict, algebra only, one worker', lambda i: by_us(i, 1), hard)):
            a_second, agreed = rate(how, some)
            rounds.append(dict(grader=name, n=len(some), a_second=a_second, agreed=agreed))
    found = pd.DataFrame(rounds).groupby('grader', sort=False).median()
    found['of math-verify'] = found.a_second / found.a_second.iloc[[0, 0, 2, 2]].values
    return found.round(dict(n=0, a_second=0, agreed=4))


def seconds(items: list, timeout: float) -> tuple[float, list]:
    start = time.perf_counter()
    grades = grade_many(items, workers=1, timeout=timeout)
    return time.perf_counter() - start, grades


def hostile(timeout: float, workers: int | None) -> None:
    "Mixed into ordinary answers, then each alone behind one ordinary answer that starts the worker; the time of that one is taken off"
    ordinary = [(gold, text) for gold, text, _ in pairs(500, 0)]
    mixed = [p for i, pair in enumerate(ordinary) for p in ([pair, ('5', rf'\boxed{{{HOSTILE[i//25]}}}')] if i % 25 == 0 else [pair])]
    found, alone = grade_many(mixed, workers=workers, timeout=timeout), grade_many(ordinary, workers=workers, timeout=timeout)
    kept = [g for g, pair in zip(found, mixed) if pair in set(ordinary)]
    rows, first = [], (r'2\sqrt{3}', r'\boxed{\sqrt{12}}')
    for text in HOSTILE:
        start, _ = seconds([first], timeout)
        total, grades = seconds([first, ('5', rf'\boxed{{{text}}}')], timeout)
        rows.append(dict(answer=ascii(text[:40]), outcome=grades[1].outcome, note=grades[1].note or '', seconds=total - start, first=grades[0].outcome))
    table = pd.DataFrame(rows)
    print(f'{len(mixed)} answers, {len(HOSTILE)} of them hostile, {timeout:g} s each: {len(found)} graded, {dict(Counter(g.outcome for g in found))}; '
          f'ordinary ones graded as without them: {kept == alone}; longest {max(table.seconds):.2f} s, median {table.seconds.median():.2f} s')
    print(table.round(2).to_string(index=False))
    assert len(found) == len(mixed) and kept == alone and table.seconds.max() < timeout + 1 and set(table['first']) == {'right'} and 'right' not in set(table.outcome)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--n', type=int, default=10_000)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--workers', type=int)
    parser.add_argument('--timeout', type=float, default=2.)
    parser.add_argument('--out', help='a CSV file for the rates, e.g. data/results/grade.csv')
    args = parser.parse_args()
    found = speed(args.n, args.repeats, args.workers)
    print(found.to_string())
    if args.out: found.assign(rounds=args.repeats, machine=f'{platform.machine()}, {os.cpu_count()} cores').to_csv(args.out)
    hostile(args.timeout, args.workers)


if __name__ == '__main__': main()
