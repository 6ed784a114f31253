"""Guessing ahead on a CPU: the vLLM engine with and without `speculate`, by how many rows are at work at once.

    python benchmarks/speculate.py --model runs/cpu/models/cgd-merged     # a student tuned by CGD writes refinements
    python benchmarks/speculate.py --work evaluate --max-new-tokens 512   # the student solves problems, as evaluations ask
    python benchmarks/speculate.py --rows 4 16 --rounds 5 --out data/results/speculate.csv

`refine` asks what an LM teacher is asked for (`chained`, greedy) about the drafts and critiques of a run (--traces). All is done by one loaded
engine, whose prompts are read once before anything is timed, as a chained conversation's are when its critique was written. With
guesses and without take turns; without them the engine does what `speculate: off` does, but for vLLM's asynchronous scheduling, which a CPU gains nothing by.
A round's ratio is that of two neighbours, `writing_ratio` that of the time of all steps that read no prompt (a block of up to 128 tokens of each prompt
is read in every round); medians, with the lowest and the highest. `equal` counts the texts that are the same with and without.
"""
import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import pandas as pd

from cgd.process import launch
from cgd.generate import EngineConfig
from cgd.models import chat_ids
from cgd.engines import engine_env, open_engine
from cgd.teacher import load_preset, refine_messages

TRACES = Path(__file__).parent.parent/'data'/'results'/'cpu'/'traces.parquet'


def cpu_name() -> str:
    "The processor, with what decides its products' speed"
    facts = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    found = [line.split(':')[1].strip() for line in facts.splitlines() if line.startswith('model name')]
    flags = [name for name in ('avx2', 'avx512f', 'amx_bf16') if f' {name}' in facts]
    return f'{found[0] if found else platform.machine()}, {os.cpu_count()} cores, {flags[-1] if flags else ""}'


def asked(work: str, traces: str) -> list[list[dict]]:
    "Chat turns, one conversation a row"
    rows, preset = pd.read_parquet(traces).to_dict('records'), load_preset('chained')
    return [refine_messages(preset, row) if work == 'refine' else [dict(role='user', content=row['prompt'])] for row in rows]


def answer(engine, prompts: list, rows: int, cap: int) -> tuple[float, float, list]:
    "Seconds, those of steps that read no prompt, and each prompt's tokens, with so many rows at work at once"
    from vllm import SamplingParams
    llm, left, done, how = engine.llm.llm_engine, list(enumerate(prompts))[::-1], {}, SamplingParams(temperature=0, max_tokens=cap)
    start, running, writing = time.perf_counter(), 0, 0.
    while left or running:
        began, reads = time.perf_counter(), bool(left) and running < rows
        while left and running < rows:
            number, ids = left.pop()
            llm.add_request(str(number), dict(prompt_token_ids=ids), how)
            running += 1
        for out in llm.step():
            if out.finished: done[int(out.request_id)], running = list(out.outputs[0].token_ids), running - 1
        if not reads: writing += time.perf_counter() - began
    return time.perf_counter() - start, writing, [done[i] for i in range(len(prompts))]


def measure(args) -> list[dict]:
    "Every number of rows; the child's side"
    found = []
    with open_engine(f'vllm:{args.model}', in_process=True, dtype=args.dtype, kv_cache_gib=args.kv_cache_gib, max_model_len=2048) as engine:
        engine.load()
        guesser = engine.llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.model_runner.drafter
        propose, count = guesser.propose, {}

        def guess(came, *given, **how) -> list:
            guesses = propose(came, *given, **how)
            for name, more in dict(steps=1, offered=sum(map(len, guesses)), right=sum(max(len(new) - 1, 0) for new in came)).items(): count[name] += more
            return guesses

        def turn(way: str, prompts: list, rows: int) -> dict:
            count.update(steps=0, offered=0, right=0)
            guesser.propose = guess if way == 'auto' else lambda came, *_, **__: [[] for _ in came]
            seconds, writing, texts = answer(engine, prompts, rows, args.max_new_tokens)
            return dict(count, speed=sum(map(len, texts)) / seconds, writing=writing, texts=texts)
        prompts = [chat_ids(engine.tokenizer, messages) for messages in asked(args.work, args.traces)]
        needed = [(rows, min(len(prompts), max(rows, 3 * rows if rows < 8 else 24))) for rows in args.rows]
        answer(engine, prompts[:max(size for _, size in needed)], 96, 1)   # reads them
        for rows, size in needed:
            rounds = []
            for number in range(args.rounds):
                pair = {way: turn(way, prompts[:size], rows) for way in (('off', 'auto') if number % 2 else ('auto', 'off'))}
                rounds.append(pair)
            found.append(row(args, engine, rows, rounds))
            print(*(f'{key} {value:.2f};' if isinstance(value, float) else f'{key} {value};' for key, value in found[-1].items()), flush=True)
            if args.out: pd.DataFrame(found[-1:]).round(3).to_csv(args.out, mode='a', header=not Path(args.out).exists(), index=False)
    return found


def row(args, engine, rows: int, rounds: list[dict]) -> dict:
    "A line of the table"
    spread = lambda name, values: {name: statistics.median(values), f'{name}_low': min(values), f'{name}_high': max(values)}
    off, auto = ([r[way] for r in rounds] for way in ('off', 'auto'))
    tokens, prompts = sum(map(len, auto[-1]['texts'])), len(auto[0]['texts'])
    return dict(work=args.work, model=engine.name, dtype=engine.dtype, rows=rows, prompts=prompts, rounds=len(rounds), tokens=tokens,
                **spread('off', [r['speed'] for r in off]), **spread('auto', [r['speed'] for r in auto]),
                **spread('ratio', [a['speed'] / b['speed'] for a, b in zip(auto, off)]),
                **spread('writing_ratio', [b['writing'] / a['writing'] for a, b in zip(auto, off)]),
                **{name: auto[-1][name] for name in ('steps', 'offered', 'right')},
                equal=min(sum(x == y for x, y in zip(a['texts'], b['texts'])) for a, b in zip(auto, off)), cpu=cpu_name())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='smollm2')
    parser.add_argument('--work', choices=('refine', 'evaluate'), default='refine')
    parser.add_argument('--traces', default=str(TRACES), help='a table with prompts, drafts and critiques')
    parser.add_argument('--rows', type=int, nargs='+', default=[4, 16, 48, 96])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--max-new-tokens', type=int, default=128)
    parser.add_argument('--dtype', default='auto')
    parser.add_argument('--kv-cache-gib', type=int, default=3)
    parser.add_argument('--out', help='a CSV file that is added to, e.g. data/results/speculate.csv')
    args = parser.parse_args()
    table = pd.DataFrame(launch('speculate:measure', args, env=engine_env(EngineConfig(kv_cache_gib=args.kv_cache_gib))))
    print(table.drop(columns=['cpu', 'work', 'model']).round(2).to_string(index=False))


if __name__ == '__main__': main()
