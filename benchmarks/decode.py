"""vLLM's decoding on a CPU: how its threads wait for each other, and how many rows are at work at once.

    python benchmarks/decode.py [--model smollm2] [--rounds 5] [--out data/results/decode.csv]

Each arm is an engine in a process of its own, at work on as many GSM8K problems as it has rows (CGD_BENCH_DIR, or the Hub), none of which ends. The three ways to
wait take turns of three decoding steps each; then come the numbers of rows, one after the other, with threads that wait as cgd lets them. Medians of the rounds; `of cgd` is
each arm's rate over that of the first.
"""
import argparse
import os
import platform
import statistics
import time
from multiprocessing import get_context

import pandas as pd

from cgd.generate import EngineConfig
from cgd.models import chat_ids
from cgd.engines import engine_env, open_engine

STEPS = 3
WAITS = {'briefly spinning, then asleep (cgd)': {}, 'spinning': dict(OMP_WAIT_POLICY='active', GOMP_SPINCOUNT='infinite'), 'asleep at once': dict(GOMP_SPINCOUNT='0')}


def serve(pipe, model: str, rows: int, env: dict) -> None:
    "The child's side: read the prompts, then take so many steps as it is told and say how long they took; 0 ends it"
    cfg = EngineConfig(kv_cache_gib=-(-rows // 48), max_model_len=2048)
    os.environ.update(engine_env(cfg) | env)
    from cgd.benchmarks import load_benchmark
    from vllm import SamplingParams
    with open_engine(f'vllm:{model}', in_process=True, **cfg.model_dump(include={'kv_cache_gib', 'max_model_len'})) as engine:
        engine.load()
        items, core = load_benchmark('gsm8k', rows), engine.llm.llm_engine
        for i, row in enumerate(items.rows):
            core.add_request(str(i), dict(prompt_token_ids=chat_ids(engine.tokenizer, items.messages(row))), SamplingParams(temperature=0, max_tokens=400, ignore_eos=True))
        while len(core.step()) < rows: pass   # until all are at work
        pipe.send('ready')
        while steps := pipe.recv():
            start = time.perf_counter()
            for _ in range(steps): core.step()
            pipe.send((time.perf_counter() - start) / steps)


def measure(model: str, arms: dict[str, tuple[int, dict]], rounds: int) -> list[dict]:
    "Milliseconds a step of each arm; arms take turns"
    context, pipes, took = get_context('spawn'), {}, {name: [] for name in arms}
    for name, (rows, env) in arms.items():
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, model, rows, env), daemon=True).start()
        assert pipes[name].recv() == 'ready'
    for turn in range(rounds):
        for name in list(arms)[::-1 if turn % 2 else 1]:
            pipes[name].send(STEPS); took[name].append(pipes[name].recv())
    for pipe in pipes.values(): pipe.send(0)
    return [dict(arm=name, rows=rows, rounds=rounds, ms_a_step=1000 * (middle := statistics.median(took[name])), fastest=1000 * min(took[name]), slowest=1000 * max(took[name]),
                 tokens_a_second=rows / middle) for name, (rows, _) in arms.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='smollm2')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--out', help='a CSV file, e.g. data/results/decode.csv')
    args = parser.parse_args()
    found = measure(args.model, {name: (64, env) for name, env in WAITS.items()}, args.rounds)
    for rows in (144, 200): found += measure(args.model, {f'{rows} rows at once': (rows, {})}, args.rounds)
    table = pd.DataFrame(found).assign(machine=f'{platform.machine()}, {os.cpu_count()} cores')
    table['of cgd'] = table.tokens_a_second / table.tokens_a_second.iloc[0]
    print(table.drop(columns='machine').round(2).to_string(index=False))
    if args.out: table.round(3).to_csv(args.out, index=False)


if __name__ == '__main__': main()
