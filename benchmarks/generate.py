"""What the store costs: rows a second through it, and a large finished store re-opened. No model is loaded.

    python benchmarks/generate.py [--only rows reopen] [--repeats 5]
"""
import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from cgd.core import launch, write_table
from cgd.generate import Completion, Request, Store, add_completion, begin_session, complete, open_engine, request_key


def show(name: str, values: list[float], unit: str):
    print(f'{name}: {statistics.median(values):,.0f} {unit} (median of {len(values)}; {min(values):,.0f} to {max(values):,.0f})', flush=True)


def run_rows(args):
    "Store and bookkeeping alone: the recorded engine's answers cost nothing"
    requests = [Request(f'p{i}', [{'role': 'user', 'content': f'What is {i} + {i % 97}?'}]) for i in range(args.rows)]
    speeds = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder)/'recording.jsonl'
        write_table([dict(asked=json.loads(json.dumps(r.asked())), text=f'{r.id} ' * 100, finish_reason='stop', prompt_tokens=9, completion_tokens=100,
                          cached_tokens=0) for r in requests], file)
        with open_engine(f'recorded:{file}') as engine:
            for turn in range(args.repeats):
                with Store(Path(folder)/f'{turn}.sqlite') as store:
                    start = time.perf_counter()
                    complete(engine, requests, store)
                    speeds.append(len(requests) / (time.perf_counter() - start))
    show(f'recorded engine, {args.rows:,} rows', speeds, 'rows/s, each committed')
    print('wanted: at least 2,000 rows/s')


def many(n: int) -> list[Request]:
    return [Request(f'p{i}', [{'role': 'user', 'content': f'What is {i} + {i % 97}? ' + 'Think about it with care. ' * 10}]) for i in range(n)]


def reopen(path: str, model: str, n: int) -> tuple[float, float]:
    "Seconds and peak megabytes of going over a finished run, from nothing"
    import resource
    start = time.perf_counter()
    with Store(path) as store, open_engine(f'hf:{model}') as engine:
        done = complete(engine, many(n), store)
        assert len(done) == n and engine.process is None, 'there was something to do'
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_reopen(args):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/'s.sqlite'
        with Store(path) as store, open_engine(f'hf:{args.model}') as engine:
            session = begin_session(store, 'draft', engine.name, engine.version, engine.identity)
            for r in many(args.stored): add_completion(store, session, r, Completion('An answer of some length. ' * 20, 'stop', 60, 100, key=request_key(engine.identity, r)))
        rounds = [launch('generate:reopen', str(path), args.model, args.stored) for _ in range(args.repeats)]
        print(f'{args.stored:,} stored rows ({path.stat().st_size / 1e6:.0f} MB) re-opened, nothing to do: {statistics.median(s for s, _ in rounds):.1f} s '
              f'(median of {len(rounds)}; up to {max(s for s, _ in rounds):.1f}), at most {max(m for _, m in rounds):.0f} MB; wanted: under 10 s and 500 MB')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='*', choices=('rows', 'reopen'), default=['rows', 'reopen'])
    parser.add_argument('--model', default='smollm2')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--rows', type=int, default=10_000, help='rows: a round')
    parser.add_argument('--stored', type=int, default=100_000, help='reopen')
    args = parser.parse_args()
    for name in args.only: dict(rows=run_rows, reopen=run_reopen)[name](args)


if __name__ == '__main__': main()
