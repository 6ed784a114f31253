"""How hard the shipped problems are for a student: drafts the first of each set, writes how many are right, by number of steps.

    python benchmarks/difficulty.py [--model smollm2] [--out data/results/difficulty.csv]

The prompt is the bare problem, decoding is greedy in float32 with up to 256 new tokens, and the last number of the text counts.
`low` and `high` bound the 95% Wilson interval.
"""
import argparse
import tempfile
from pathlib import Path

import pandas as pd

from cgd.core import write_atomic
from cgd.data import load_problems
from cgd.store import SampleConfig, Store
from cgd.engines import choose_engine, open_engine
from cgd.rollouts import draft
from cgd.stats import wilson

FIRST = dict(train=200, test=200, shifted=100)


def line(name: str, steps: str, traces: list[dict]) -> dict:
    right = sum(row['draft_grade'] == 'right' for row in traces)
    low, high = wilson(right, len(traces))
    return dict(set=name, steps=steps, n=len(traces), right=right, share=right / len(traces), low=low, high=high)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='smollm2')
    parser.add_argument('--out', default='data/results/difficulty.csv')
    args = parser.parse_args()
    lines, spec = [], f'{choose_engine(args.model)}:{args.model}'
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)/'s.sqlite') as store, open_engine(spec, dtype='float32', max_model_len=2048) as student:
        for name, first in FIRST.items():
            traces = draft(load_problems(name, limit=first).rows, student, store, SampleConfig(max_new_tokens=256), 'flexible')
            lines.append(line(name, 'all', traces))
            by_steps = {}
            for row in traces: by_steps.setdefault(row['solution'].count('\n'), []).append(row)
            lines += [line(name, str(steps), some) for steps, some in sorted(by_steps.items())]
    table = pd.DataFrame(lines)
    write_atomic(args.out, table.to_csv(index=False, float_format='%.4f'))
    print(table.round(3).to_string(index=False))


if __name__ == '__main__': main()
