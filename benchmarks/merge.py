"""How much of what was trained is in the model that is evaluated: an adapter served as it is, merged in 32 bits, merged in 16.

    python benchmarks/merge.py [--pairs 96] [--epochs 2] [--prompts 24] [--repeats 3] [--out data/results/merge.csv]

An adapter is trained on cgd pairs of the committed run, as the default run trains it. *share* is what of its update the evaluated weights carry:
<d, D>/<D, D>, with D the exact update and d the one found, over all matrices; *cosine* is the angle between the two. *nll* is the mean
negative log-probability of a target's token, in nats, over the pairs' own targets, computed in float32 from each way's weights.
*tokens_s* is the speed of greedy answers, of the first two ways; they take turns, and shown are median, lowest and highest.
"""
import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cgd.core import read_table, write_table
from cgd.data import load_problems
from cgd.store import Request, ScoreRequest, Store
from cgd.generate import complete, score
from cgd.engines import choose_engine, open_engine
from cgd.models import find_model
from cgd.recipe import TrainConfig
from cgd.merge import merge_student
from cgd.train import train
from cgd.views import Pairs, build

TRACES = Path(__file__).parent.parent/'data'/'results'/'cpu'/'traces.parquet'


def weights(folder: str, adapter: str = '') -> dict:
    "A model's weights in float32, with an adapter's update added if one is given"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return (PeftModel.from_pretrained(model, adapter).merge_and_unload() if adapter else model).state_dict()


def arrived(base: dict, exact: dict, found: dict) -> dict:
    "Share of the update that arrives, and the cosine between what arrives and what was trained"
    pairs = [(found[k].float() - base[k], exact[k] - base[k]) for k in base if (exact[k] != base[k]).any()]
    both, wanted, got = (sum((x*y).sum().item() for x, y in p) for p in (pairs, [(D, D) for _, D in pairs], [(d, d) for d, _ in pairs]))
    return dict(share=both/wanted, cosine=both/(wanted*got)**.5)


def nll(spec: str, options: dict, pairs: Pairs, folder: Path) -> float:
    "Nats a token of the targets"
    asked = [ScoreRequest(r['row_id'], r['prompt'], r['completion'][0]['content']) for r in pairs.rows]
    with open_engine(spec, **options) as engine, Store(folder/'nll.sqlite') as store: scores = score(engine, asked, store)
    return -sum(s.logprob for s in scores) / sum(len(s.tokens) for s in scores)


def speed(engine, store: Store, problems: list, turn: int) -> float:
    "Tokens a second of greedy answers; each turn asks with a cap of its own, so that nothing is remembered"
    asked = [Request(p['problem_id'], [dict(role='user', content=p['prompt'])], max_new_tokens=96 + turn) for p in problems]
    start = time.perf_counter()
    return sum(c.completion_tokens for c in complete(engine, asked, store)) / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (('pairs', 96), ('epochs', 2), ('prompts', 24), ('repeats', 3)):
        parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--out')
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    base, adapter = find_model('smollm2'), str(folder/'adapter')
    pairs = build(read_table(TRACES), 'cgd')
    pairs.rows = pairs.rows[:args.pairs]
    train(pairs, TrainConfig(epochs=args.epochs, device_batch_size=4), 'smollm2', adapter)
    whole = merge_student('smollm2', adapter, folder/'merged')
    rounded = str(folder/'rounded')
    shutil.copytree(whole, rounded)
    AutoModelForCausalLM.from_pretrained(whole, dtype=torch.bfloat16).save_pretrained(rounded)
    ways = {'served': (base, dict(adapter=adapter)), 'merged, float32': (whole, {}), 'merged, bfloat16': (rounded, {})}
    start, exact = weights(base), weights(base, adapter)
    found = {way: weights(model, options.get('adapter', '')) for way, (model, options) in ways.items()}
    rows = {way: dict(way=way, **arrived(start, exact, found[way]), nll=nll(f'hf:{model}', options | dict(dtype='float32'), pairs, folder))
            for way, (model, options) in ways.items()}
    problems, rates, kind = load_problems('test', args.prompts).rows, {way: [] for way in ways}, choose_engine('smollm2')
    for turn in range(args.repeats):
        for way, (model, options) in [*ways.items()][:2]:
            with open_engine(f'{kind}:{model}', max_model_len=1024, **options) as engine, Store(folder/'speed.sqlite') as store:
                complete(engine, [Request('warm', [dict(role='user', content=f'Hello {turn}')], max_new_tokens=4)], store)
                rates[way].append(speed(engine, store, problems, turn))
    speeds = {way: dict(tokens_s=statistics.median(r), lowest=min(r), highest=max(r), n=len(r)) for way, r in rates.items() if r}
    table = [row | speeds.get(way, {}) for way, row in rows.items()]
    print(pd.DataFrame(table).to_string(index=False))
    if args.out: write_table(table, args.out)


if __name__ == '__main__': main()
