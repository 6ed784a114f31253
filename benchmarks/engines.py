"""vLLM against transformers' batched `generate`: same 64 prompts, same number format, same limits, tokens per second.

    python benchmarks/engines.py [--model smollm2] [--repeats 5]

Each engine runs alone in a process of its own, as a careful user would run it: vLLM eager on CPU, transformers with all
64 prompts in one left-padded batch. Loading is not timed and one round warms up. Every round has new prompts, so that no prefix
cache can answer. Only tokens up to the end of each completion count.
"""
import argparse
import statistics
import tempfile
import time
from pathlib import Path

from cgd.process import launch
from cgd.generate import EngineConfig, complete
from cgd.store import Request, Store
from cgd.engines import engine_env, open_engine


def prompts(turn: int) -> list[Request]:
    "64 short problems, others each round"
    start = 1000 * turn
    return [Request(f'{turn}-{i}', [{'role': 'user', 'content': f'Tom has {start + i} apples and buys {i + 3} more. How many apples does he have?'}],
                    max_new_tokens=128) for i in range(64)]


def measure(spec: str, options: dict, repeats: int) -> list[dict]:
    "Tokens and seconds of each round"
    rounds = []
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)/'s.sqlite') as store, open_engine(spec, in_process=True, **options) as engine:
        complete(engine, prompts(0)[:4], store)   # loads, and touches all code once
        for turn in range(1, repeats + 1):
            start = time.perf_counter()
            done = complete(engine, prompts(turn), store)
            rounds.append(dict(tokens=sum(c.completion_tokens for c in done), seconds=time.perf_counter() - start))
    return rounds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='smollm2')
    parser.add_argument('--repeats', type=int, default=5)
    args = parser.parse_args()
    rates = {}
    for kind, options in dict(vllm=dict(max_model_len=2048), hf=dict(max_model_len=2048, batch_size=64)).items():
        rounds = launch('cgd.models:_quietly', 'engines:measure', f'{kind}:{args.model}', options, args.repeats, env=engine_env(EngineConfig(**options)))
        speeds = [r['tokens'] / r['seconds'] for r in rounds]
        rates[kind] = statistics.median(speeds)
        print(f'{kind}: {rates[kind]:.0f} tokens/s (median of {args.repeats}; {min(speeds):.0f} to {max(speeds):.0f}), '
              f'{sum(r["tokens"] for r in rounds)} tokens', flush=True)
    print(f'vLLM / transformers: {rates["vllm"] / rates["hf"]:.2f}')


if __name__ == '__main__': main()
