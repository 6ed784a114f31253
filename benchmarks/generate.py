"""What the door costs and what it saves: our path against bare vLLM, the store alone, a large store re-opened, and the three stages end to end.

    python benchmarks/generate.py                          # the first three
    python benchmarks/generate.py --only rows reopen       # light ones: no model
    python benchmarks/generate.py --end-to-end --problems 200

Our path and `LLM.generate` take turns on one loaded model with the same prompts, the prefix cache emptied before each, and every number is the
median of `--repeats` rounds after one that warms up. End to end compares what this package can do (`chained`: one engine, in which the teacher takes
the student's place, every row committed as it finishes) with the plain way of three passes: student loaded, teacher loaded, teacher loaded again with
fresh prompts, each with bare `LLM.generate`, and each saving its rows at its end. Same model, number format, context and token limits; the two take
turns, `--rounds` times. A teacher of another shape than the student's costs one load more.
"""
import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from cgd.process import launch
from cgd.core import write_table
from cgd.store import Completion, Request, Store, add_completion, begin_session, request_key, sessions
from cgd.generate import EngineConfig, complete
from cgd.engines import engine_env, open_engine

FOLDER = Path(__file__).parent


def prompts(turn: int, n: int, max_new_tokens: int = 64) -> list[Request]:
    "Short problems, others each round"
    return [Request(f'{turn}-{i}', [{'role': 'user', 'content': f'Tom has {1000 * turn + i} apples and buys {i + 3} more. How many apples does he have?'}],
                    max_new_tokens=max_new_tokens) for i in range(n)]


def show(name: str, values: list[float], unit: str):
    print(f'{name}: {statistics.median(values):,.0f} {unit} (median of {len(values)}; {min(values):,.0f} to {max(values):,.0f})', flush=True)


def door(model: str, options: dict, repeats: int, n: int) -> list[dict]:
    "Tokens and seconds of our path and of `LLM.generate`, by turns on one model"
    from cgd.engines import _vllm_params
    from cgd.models import chat_ids
    rounds = []
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)/'s.sqlite') as store, open_engine(f'vllm:{model}', in_process=True, **options) as engine:
        complete(engine, prompts(0, 4), store)   # loads

        def ours(requests) -> int: return sum(c.completion_tokens for c in complete(engine, requests, store))

        def bare(requests) -> int:
            ids = [{'prompt_token_ids': chat_ids(engine.tokenizer, r.messages)} for r in requests]
            done = engine.llm.generate(ids, [_vllm_params(r) for r in requests], use_tqdm=False)
            return sum(len(o.outputs[0].token_ids) for o in done)
        for turn in range(repeats + 1):
            for way in (ours, bare) if turn % 2 else (bare, ours):
                engine.llm.reset_prefix_cache()
                requests, start = prompts(turn + 1, n), time.perf_counter()
                rounds.append(dict(way=way.__name__, turn=turn, tokens=way(requests), seconds=time.perf_counter() - start))
    return [r for r in rounds if r['turn']]   # the first one warmed up


def run_door(args):
    options = dict(max_model_len=1024, dtype=args.dtype)
    rounds = launch('cgd.models:_quietly', 'generate:door', args.model, options, args.repeats, args.requests, env=engine_env(EngineConfig(**options)))
    speeds = {way: [r['tokens'] / r['seconds'] for r in rounds if r['way'] == way] for way in ('bare', 'ours')}
    show('bare LLM.generate', speeds['bare'], 'tokens/s')
    show('complete', speeds['ours'], 'tokens/s')
    ratios = [a / b for a, b in zip(speeds['ours'], speeds['bare'])]
    print(f'complete / bare: {statistics.median(ratios):.2f} (median of {len(ratios)} paired rounds of {args.requests} requests; {min(ratios):.2f} to {max(ratios):.2f}); wanted: at least 0.90')


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


def problems(n: int) -> list[dict]:
    from cgd.data import load_problems
    rows = load_problems('train', limit=n).rows
    assert len(rows) == n, f'only {len(rows)} problems'
    return rows


def timed(llm) -> dict:
    "Times an engine in this process from now on: seconds of steps that read any prompt, and of those that only write"
    seconds, seen = dict(prefill=0., decode=0.), {}
    scheduler, step = llm.llm_engine.engine_core.engine_core.scheduler, llm.llm_engine.step
    schedule = scheduler.schedule

    def watched(*args):
        seen['plan'] = schedule(*args)
        return seen['plan']

    def clocked():
        seen['plan'], start = None, time.perf_counter()
        out = step()
        plan = seen['plan']
        kind = 'prefill' if plan and (plan.scheduled_new_reqs or any(n > 1 for n in plan.num_scheduled_tokens.values())) else 'decode'
        seconds[kind] += time.perf_counter() - start
        return out
    scheduler.schedule, llm.llm_engine.step = watched, clocked
    return seconds


def watch(engine):
    "Have the engine's steps timed as soon as it is loaded, each session's apart"
    engine.times, load, fill = {}, engine.load, engine.fill

    def then_time():
        load()
        if not hasattr(engine, 'clock'): engine.clock = timed(engine.llm)   # once, whatever takes its place

    def filling(missing, store, session, tick):
        fill(missing, store, session, tick)
        engine.times[session] = dict(engine.clock)
        engine.clock.update(prefill=0., decode=0.)
    engine.load, engine.fill = then_time, filling


def ledger(store: Store, engine) -> list[dict]:
    "What this engine did, a row a stage: the store's counts and seconds, and the engine's times"
    rows = [dict(row, **engine.times[id]) for id, row in enumerate(sessions(store), 1) if id in engine.times]
    total = lambda stage, k: sum(row[k] for row in rows if row['stage'] == stage)
    return [dict(stage=stage, **{k: total(stage, k) for k in rows[0] if isinstance(rows[0][k], (int, float))}) for stage in dict.fromkeys(r['stage'] for r in rows)]


def all_stages(model: str, options: dict, n: int, cfg: dict, path: str) -> tuple[list[dict], list[dict]]:
    "Drafts, critiques and chained refinements by one engine, in which the teacher takes the student's place, and the ledger"
    from cgd.engines import _lighten
    _lighten()
    from cgd.store import SampleConfig
    from cgd.rollouts import draft
    from cgd.teacher import LMTeacher, TeacherConfig, teach
    with Store(path) as store, open_engine(f'vllm:{model}', in_process=True, **options) as engine:
        watch(engine)
        drafts = draft(problems(n), engine, store, SampleConfig(max_new_tokens=cfg['draft']))
        engine.set_model(model)   # the teacher: here the same weights, so that nothing is exchanged
        traces = teach(drafts, LMTeacher(engine, TeacherConfig(preset='chained', max_new_tokens=cfg['teacher'])), store)
        return traces, ledger(store, engine)


def chained(model: str, options: dict, cfg: dict, n: int, folder: str) -> list[dict]:
    "This package's way: one process, every row committed as it finishes; returns the ledger"
    path, env = str(Path(folder)/'chained.sqlite'), engine_env(EngineConfig(**options))
    traces, costs = launch('cgd.models:_quietly', 'generate:all_stages', model, options, n, cfg, path, env=env)
    write_table(traces, Path(folder)/'chained.jsonl')
    return costs


def one_pass(model: str, options: dict, stage: str, messages: list[list[dict]], max_new_tokens: int, out: str) -> dict:
    "The plain way of one stage: load, generate all, save at the end"
    start = time.perf_counter()
    from transformers import AutoTokenizer
    from vllm import LLM, SamplingParams
    from cgd.models import chat_ids, find_model, resolve_dtype
    folder = find_model(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    llm = LLM(folder, dtype=resolve_dtype(options['dtype']), max_model_len=options['max_model_len'], seed=0, enforce_eager=True, enable_prefix_caching=True, disable_log_stats=True)
    loaded, seconds = time.perf_counter(), timed(llm)
    done = llm.generate([{'prompt_token_ids': chat_ids(tokenizer, m)} for m in messages], SamplingParams(temperature=0, max_tokens=max_new_tokens), use_tqdm=False)
    write_table([dict(text=o.outputs[0].text, finish_reason=o.outputs[0].finish_reason) for o in done], out)
    return dict(stage=stage, requests=len(done), prompt_tokens=sum(len(o.prompt_token_ids) for o in done), cached_tokens=sum(o.num_cached_tokens or 0 for o in done),
                completion_tokens=sum(len(o.outputs[0].token_ids) for o in done), load_seconds=loaded - start, seconds=time.perf_counter() - start, **seconds)


def three_passes(model: str, options: dict, cfg: dict, n: int, folder: str) -> list[dict]:
    "Student load, teacher load, teacher load again: each a process that generates everything and then saves"
    from cgd.core import read_table
    from cgd.teacher import critique_messages, load_preset, refine_messages
    preset, rows, costs, env = load_preset('paper'), problems(n), [], engine_env(EngineConfig(**options))

    def stage(name, messages, cap):
        out = str(Path(folder)/f'{name}.jsonl')
        costs.append(launch('cgd.models:_quietly', 'generate:one_pass', model, options, name, messages, cap, out, env=env))
        return [r['text'] for r in read_table(out)]
    rows = [dict(row, draft=text) for row, text in zip(rows, stage('draft', [[dict(role='user', content=r['prompt'])] for r in rows], cfg['draft']))]
    rows = [dict(row, critique=text) for row, text in zip(rows, stage('critique', [critique_messages(preset, r) for r in rows], cfg['teacher']))]
    stage('refine', [refine_messages(preset, r) for r in rows], cfg['teacher'])
    return costs


def run_end_to_end(args):
    options, cfg = dict(max_model_len=2048, dtype=args.dtype), dict(draft=args.draft_tokens, teacher=args.teacher_tokens)
    print(f'end to end: {args.problems} problems, {args.model} as student and teacher, up to {args.draft_tokens} tokens a draft and {args.teacher_tokens} a critique and refinement')
    walls, ledgers = dict(three_passes=[], chained=[]), {}
    for turn in range(args.rounds):
        for way in (three_passes, chained)[::-1 if turn % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                ledgers[way.__name__] = way(args.model, options, cfg, args.problems, folder)
                walls[way.__name__].append(time.perf_counter() - start)
            print(f'{way.__name__}: {walls[way.__name__][-1]:.1f} s', flush=True)
            for r in ledgers[way.__name__]:
                work = r['seconds'] - r['load_seconds']
                print(f'  {r["stage"]:9} load {r["load_seconds"]:5.1f} s, work {work:6.1f} s (steps that prefill {r["prefill"]:6.1f}, that only decode {r["decode"]:6.1f}); prompt {r["prompt_tokens"]:>7} tokens ({r["cached_tokens"] / max(r["prompt_tokens"], 1):.0%} from cache), written {r["completion_tokens"]:>7}', flush=True)
    refine = {way: next(r for r in rows if r['stage'] == 'refine') for way, rows in ledgers.items()}
    step = {way: (r['seconds'] - r['load_seconds']) for way, r in refine.items()}
    ratios = [ours / plain for ours, plain in zip(walls['chained'], walls['three_passes'])]
    print(f'wall time, chained / three passes: {statistics.median(ratios):.2f} (median of {len(ratios)}; {min(ratios):.2f} to {max(ratios):.2f}); wanted: at most 0.60')
    print(f'refine step: {refine["chained"]["cached_tokens"] / refine["chained"]["prompt_tokens"]:.0%} of its prompt tokens from cache (wanted: 50%), '
          f'{1 - step["chained"] / step["three_passes"]:.0%} less time (wanted: 25%)')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='*', choices=('door', 'rows', 'reopen'), default=['door', 'rows', 'reopen'])
    parser.add_argument('--end-to-end', action='store_true', help='only that; long')
    parser.add_argument('--model', default='smollm2')
    parser.add_argument('--dtype', default='auto')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--requests', type=int, default=64, help='door: a round')
    parser.add_argument('--rows', type=int, default=10_000, help='rows: a round')
    parser.add_argument('--stored', type=int, default=100_000, help='reopen')
    parser.add_argument('--rounds', type=int, default=1, help='end to end')
    parser.add_argument('--problems', type=int, default=200, help='end to end')
    parser.add_argument('--draft-tokens', type=int, default=96, help='end to end: cap on a draft')
    parser.add_argument('--teacher-tokens', type=int, default=96, help='end to end: cap on a critique and on a refinement')
    args = parser.parse_args()
    if args.end_to_end: return run_end_to_end(args)
    for name in args.only: dict(door=run_door, rows=run_rows, reopen=run_reopen)[name](args)


if __name__ == '__main__': main()
