"""How much of the published test sets a model can recite, beside problems that nobody can have seen.

    CGD_BENCH_DIR=~/bench python benchmarks/memory.py                          # every benchmark in that folder, up to 100 problems each
    CGD_BENCH_DIR=~/bench python benchmarks/memory.py --only gsm8k math500 --n 60
    CGD_BENCH_DIR=~/bench python benchmarks/memory.py --model Qwen/Qwen2.5-1.5B --out runs/memory/qwen.csv

The model is shown the first 60% of each problem's words (--share) as bare text and continues greedily (see nbs/54_memory.ipynb). A benchmark is
shuffled with a seed before its first problems are taken; `unseen` are as many of the generator's. Completions are kept in --store, so that it goes on where it was stopped;
the table is written after each benchmark. `low` to `high` and `exact_low` to `exact_high` are 95% intervals. No text of a problem is in the table.
"""
import argparse
import random

import pandas as pd

from cgd.benchmarks import BENCHMARKS, bench_file, load_benchmark
from cgd.core import CgdError, derive_seed, write_atomic
from cgd.engines import choose_engine, open_engine
from cgd.memory import completion_probe, probe_table, unseen_problems
from cgd.store import Store


def found_here() -> list[str]:
    "The published benchmarks whose file is in CGD_BENCH_DIR; of several that share one, the first"
    files = {}
    for name, benchmark in BENCHMARKS.items():
        if bench_file(benchmark.file) is not None: files.setdefault(benchmark.file, name)
    return list(files.values())


def drawn(name: str, n: int, seed: int) -> list[dict]:
    "The first problems of a benchmark that was shuffled; a larger number adds to those of a smaller one"
    rows = load_benchmark(name).rows
    random.Random(derive_seed(seed, name)).shuffle(rows)
    return rows[:n]


def chosen(only: list[str] | None) -> list[str]:
    "The benchmarks to probe; raises CgdError for one that is not there, or if there is none"
    here = found_here()
    if missing := [name for name in only or [] if name not in here]:
        raise CgdError(f'--only: {missing[0]} is not in CGD_BENCH_DIR; there are: {", ".join(here) or "none"}')
    if not here: raise CgdError('CGD_BENCH_DIR: set it to a folder with benchmarks (see nbs/36_benchmarks.ipynb)')
    return only or here


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='smollm2', help='smollm2, a folder, or a Hub id')
    parser.add_argument('--only', nargs='+', metavar='BENCHMARK', help='these alone; default: all that are found')
    parser.add_argument('--n', type=int, default=100, help='problems of each benchmark at most; default 100')
    parser.add_argument('--share', type=float, default=.6, help='of the words that is shown; default 0.6')
    parser.add_argument('--seed', type=int, default=0, help='of the draws')
    parser.add_argument('--dtype', default='auto', help='number format; default: what the engine takes here')
    parser.add_argument('--store', default='runs/memory/store.sqlite')
    parser.add_argument('--out', default='data/results/memory.csv')
    args = parser.parse_args()
    try: names = chosen(args.only)
    except CgdError as e: parser.error(str(e))
    lines = []
    with Store(args.store) as store, open_engine(f'{choose_engine(args.model)}:{args.model}', dtype=args.dtype, max_model_len=2048) as engine:
        for name in ('unseen', *names):
            problems = unseen_problems(args.n, args.seed) if name == 'unseen' else drawn(name, args.n, args.seed)
            found = probe_table({name: completion_probe(engine, problems, store, args.share)})
            lines += [dict(model=args.model, **line, engine=engine.version, dtype=engine.identity['dtype']) for line in found]
            table = pd.DataFrame(lines)
            write_atomic(args.out, table.to_csv(index=False, float_format='%.4f'))
    print(table.drop(columns=['model', 'engine', 'dtype']).round(3).to_string(index=False))


if __name__ == '__main__': main()
