"""What the training of each method takes beside CGD's with as many tokens: time a token, and memory at its peak.

    python benchmarks/methods.py [--model smollm2] [--rows 16] [--repeats 1] [--only dsft dpo] [--out data/results/methods.csv]

Every method that learns from pairs which the oracle teacher can make, from the drafts of nbs/recordings. CGD learns `--rows` pairs, 4 in memory at once and 8 an update; another
method has its own pairs again and again until they have as many tokens, and as many of them at once as hold as many tokens, so that what differs is the method and not how much
is read. Each training has a process of its own and sees its pairs twice; the second pass is measured. CGD comes first and last in each turn: `time` and `memory` are relative to
the mean of the two, and how far the two are apart is the noise. Methods that learn from their own tries are not here: see benchmarks/grpo.py.
"""
import argparse
import itertools
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
from train import DRAFTS, cpu_name   # benchmarks/train.py

from cgd.core import CgdError, read_table, write_atomic
from cgd.data import load_problems
from cgd.grade import outcomes
from cgd.masks import lengths
from cgd.methods import METHODS
from cgd.models import find_model, load_tokenizer
from cgd.preferences import prefer_stage
from cgd.process import launch, usable_cores
from cgd.teacher import REWRITES, critique, direct, open_teacher, refine, rewrite
from cgd.train import recipe_of
from cgd.trainer import read_losses, train_env
from cgd.views import Pairs, build


def traces(n: int) -> list[dict]:
    "A table with all that the oracle teacher can make, of drafts with the lengths of real ones"
    drafts, problems = read_table(DRAFTS), load_problems('train', n).rows
    rows = [dict(p, student='smollm2', sample=0, draft=drafts[i % len(drafts)]['text'], draft_finish='stop') for i, p in enumerate(problems)]
    rows = [r | dict(draft_grade=grade) for r, grade in zip(rows, outcomes(rows, [r['draft'] for r in rows], 'auto'))]
    with open_teacher('oracle') as teacher:
        rows = direct(refine(critique(rows, teacher), teacher), teacher)
        for column in REWRITES: rows = rewrite(rows, teacher, column)
        return prefer_stage(rows, teacher)


def tokens_of(pairs: Pairs, tokenizer) -> list[int]:
    "Tokens of each pair; of a preference both answers, each with its prompt"
    counts = [r['total'] for r in lengths(tokenizer, pairs)]
    if 'rejected' not in pairs.rows[0]: return counts
    other = replace(pairs, rows=[r | dict(completion=r['rejected']) for r in pairs.rows])
    return [a + r['total'] for a, r in zip(counts, lengths(tokenizer, other))]


def as_many(pairs: Pairs, tokenizer, total: int) -> Pairs:
    "Pairs again and again, until they have so many tokens"
    kept, done = [], 0
    for row, n in itertools.cycle(zip(pairs.rows, tokens_of(pairs, tokenizer))):
        if done >= total: return replace(pairs, rows=kept)
        kept.append(row)
        done += n


def measure(name: str, pairs: Pairs, at_once: int, model: str) -> dict:
    "A training in a process of its own: tokens and seconds of its second pass, GiB at its peak"
    cfg = recipe_of(pairs)(epochs=2, batch_size=2*at_once, device_batch_size=at_once, save_steps=10_000)
    with tempfile.TemporaryDirectory() as folder:
        record = launch('cgd.train:fit', pairs, cfg, model, Path(folder, name), env=train_env())
        steps = read_losses(Path(folder, name))
    warm, end = [r for r in steps if r['epoch'] <= 1.001][-1], steps[-1]
    return dict(method=name, pairs=len(pairs), at_once=at_once, tokens=end['tokens'] - warm['tokens'], seconds=end['seconds'] - warm['seconds'],
                gib=record['peak_gib'], device=record['device'], dtype=record['dtype'])


def turn(tables: dict[str, Pairs], tokenizer, model: str, number: int) -> list[dict]:
    "All methods once, CGD at both ends"
    mean = {m: statistics.mean(tokens_of(p, tokenizer)) for m, p in tables.items()}
    total, rows = sum(tokens_of(tables['cgd'], tokenizer)), []
    for name in ('cgd', *(m for m in tables if m != 'cgd'), 'cgd'):
        pairs = as_many(tables[name], tokenizer, total)
        rows.append(measure(name, pairs, max(1, round(4*mean['cgd']/mean[name])), model) | dict(turn=number))
        print({k: round(v, 2) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    ours = [r for r in rows if r['method'] == 'cgd']
    time, gib = statistics.mean(r['seconds']/r['tokens'] for r in ours), statistics.mean(r['gib'] for r in ours)
    return [r | dict(time=r['seconds']/r['tokens']/time, memory=r['gib']/gib) for r in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='smollm2', help='the student: smollm2, a folder, or a Hub id')
    parser.add_argument('--rows', type=int, default=16, help='pairs of CGD')
    parser.add_argument('--repeats', type=int, default=1, help='turns')
    parser.add_argument('--only', nargs='*', choices=tuple(METHODS), help='these alone')
    parser.add_argument('--out', default='data/results/methods.csv')
    args = parser.parse_args()
    made, tables, tokenizer = traces(args.rows), {}, load_tokenizer(find_model(args.model))
    for m in METHODS.values():
        if not m.learns or m.own or args.only and m.name not in (*args.only, 'cgd'): continue
        try: pairs = build(made, m)
        except CgdError as e: print(f'not measured: {e}')
        else: tables[m.name] = pairs if pairs.rows else print(f'not measured: {m.name}: {pairs.dropped}')
    tables, rows = {m: p for m, p in tables.items() if p}, []
    for number in range(args.repeats):
        rows += turn(tables, tokenizer, args.model, number)
        write_atomic(args.out, pd.DataFrame(rows).assign(cpu=cpu_name(), cores=usable_cores()).to_csv(index=False, float_format='%.4g'))
    print(pd.DataFrame(rows).groupby('method', sort=False)[['time', 'memory']].median().round(2).to_string())


if __name__ == '__main__': main()
