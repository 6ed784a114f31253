"""What an update of GRPO waits for: completions written by vLLM, and by transformers' `generate`, with the newest weights.

    python benchmarks/grpo.py [--model smollm2] [--turns 3] [--updates 1] [--method sdft] [--old ../cgd-of-before] [--out data/results/grpo.csv]
    python benchmarks/grpo.py --tiny     # a smoke test with a random two-layer model: the numbers mean nothing

Each arm is a training in a process of its own, of the same problems: 8 of them with 8 completions each, of 128 tokens to the last (no end is taken
before), learnt 8 at a time. The first update warms up with 8 tokens and is not counted. The arms take turns, every other turn backwards. An update
is split into `generate` (with vLLM, `exchange` is the part of it in which the weights are handed over), `score` (the grader) and `learn` (the rest:
forward, backward, optimiser; with vLLM a prompt is read once for its 8 completions). `--method` takes a relative instead, with the drafts and critiques of
a committed run. `--old` is another checkout of cgd with its own .venv, whose `train_rival` is an arm, too; ratios are over it, or else
over transformers in this checkout. Shown are medians, and the lowest and highest.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

PARTS = ('update', 'generate', 'exchange', 'score', 'learn')


def timed(function, spent: dict, part: str):
    "The function, which adds its seconds to a part"
    def call(*args, **more):
        start = time.perf_counter()
        try: return function(*args, **more)
        finally: spent[part] = spent.get(part, 0.) + time.perf_counter() - start
    return call


def watch(tokens: int, rows: list[dict]):
    "Have this process's trainer note where the time of each update goes, and write no end before so many tokens"
    import cgd.rivals as rivals
    from transformers import TrainerCallback
    payer = '_paying' if hasattr(rivals, '_paying') else 'reward_by'   # of before
    spent, run_trainer, make_reward = {}, rivals.run_trainer, getattr(rivals, payer)

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **more): spent.clear(); self.start = time.perf_counter()
        def on_step_end(self, *args, **more): rows.append(dict(update=time.perf_counter() - self.start) | spent)

    def run(trainer, *args):
        write = trainer.model.generate

        def write_all(*args, generation_config, **more):
            size = tokens if rows or trainer.state.global_step else 8
            generation_config.min_new_tokens = generation_config.max_new_tokens = size
            return write(*args, generation_config=generation_config, **more)
        trainer.model.generate = timed(write_all, spent, 'generate')
        trainer.add_callback(Clock)
        return run_trainer(trainer, *args)

    def reward(name, *args):
        graded = timed(make_reward(name, *args), spent, 'score')
        def pay(completions, **row): return [float(i % 2) for i, _ in enumerate(graded(completions, **row))]   # every group teaches something
        pay.__name__ = name
        return pay
    rivals.run_trainer = run
    setattr(rivals, payer, reward)
    if hasattr(rivals, 'exchange_weights'): rivals.exchange_weights = timed(rivals.exchange_weights, spent, 'exchange')


def run_arm(arm: str, method: str, base: str, tokens: int, updates: int, seed: int, out: str):
    "Train one arm in this process, and write what its updates took"
    import cgd.rivals as rivals
    from cgd.core import read_table, shipped
    rows, traces = [], read_table(shipped('data/results/on_policy')/'first-s0'/'traces.parquet')[:64]
    watch(tokens, rows)
    if arm == 'transformers': rivals.vllm_fault = lambda: 'the benchmark asks for transformers'
    cfg = rivals.RLConfig(steps=1 + updates, prompts=8, n=8, max_new_tokens=tokens, save_steps=10**6, seed=seed, max_cut_share=1.)
    with tempfile.TemporaryDirectory() as folder: record = rivals.fit_rival(method, traces, cfg, base, Path(folder)/arm)
    found = [dict(arm=arm, method=method, turn=seed, dtype=record['dtype'], peak_gib=record['peak_gib'], written_by=record.get('written_by', 'transformers')) | row for row in rows[1:]]
    assert record['target_tokens'] == 64*(8 + updates*tokens), record['target_tokens']
    Path(out).write_text(json.dumps(found))


def environment(arm: str) -> dict:
    "What `train_rival` starts a training with; another checkout has its own package"
    if arm == 'old': return {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | dict(TRL_EXPERIMENTAL_SILENCE='1', OMP_WAIT_POLICY='passive')
    from cgd.engines import engine_env
    from cgd.generate import EngineConfig
    from cgd.trainer import train_env
    return os.environ | engine_env(EngineConfig(kv_cache_gib=1)) | train_env() | dict(TRL_EXPERIMENTAL_SILENCE='1')


def measure(arms: list[str], base: str, args) -> list[dict]:
    "All arms in turns"
    rows = []
    for turn in range(args.first, args.first + args.turns):
        for arm in arms[::-1] if turn % 2 else arms:
            with tempfile.TemporaryDirectory() as folder:
                out, here = Path(folder)/'rows.json', args.old if arm == 'old' else Path(__file__).parent.parent
                python = here/'.venv'/'bin'/'python' if arm == 'old' else sys.executable
                told = subprocess.run([python, Path(__file__).resolve(), '--arm', arm, args.method, base, str(args.tokens), str(args.updates), str(turn), out], cwd=here,
                                      env=environment(arm), capture_output=True, text=True)
                if told.returncode: raise SystemExit(f'{arm}: {told.stderr[-2000:]}')
                rows += [row | dict(learn=row['update'] - row['generate'] - row.get('score', 0.)) for row in json.loads(out.read_text())]
            last = rows[-1]
            print(f'turn {turn + 1}, {arm}: ' + ', '.join(f'{p} {last.get(p, 0.):.1f} s' for p in PARTS), f'peak {last["peak_gib"]} GiB', flush=True)
    return rows


def spread(values: list[float], form: str = '.1f') -> str:
    return f'{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})'


def report(rows: list[dict], arms: list[str]):
    "Seconds by part, and each arm's update over that of the one it is compared with"
    frame = pd.DataFrame(rows)
    for part in PARTS: frame[part] = frame[part].fillna(0.) if part in frame else 0.
    by = {arm: frame[frame.arm == arm] for arm in arms}
    print(f'\n64 completions, in {rows[0]["dtype"]}; seconds of an update, n = {len(by[arms[0]])} each')
    print(pd.DataFrame({arm: {p: spread(list(some[p])) for p in PARTS} | {'peak GiB': f'{some.peak_gib.median():.2f}'} for arm, some in by.items()}).to_string())
    against = next((a for a in ('old', 'transformers') if a in by), arms[0])
    for arm in arms:
        if arm == against: continue
        for part in ('update', 'generate', 'learn'):
            shares = by[arm].groupby('turn')[part].median() / by[against].groupby('turn')[part].median()
            print(f'{arm} / {against}, {part}: {spread(list(shares), ".2f")}' + ('; wanted: at most 0.40' if (part, arm, rows[0]['method']) == ('update', 'vllm', 'grpo') else ''))
        print(f'{arm}: learning is {spread(list(by[arm].learn/by[arm]["update"]), ".0%")} of an update')


def tiny_model(folder: str) -> str:
    "A two-layer llama of random weights with the embedded student's tokenizer"
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from cgd.models import find_model
    tokenizer = AutoTokenizer.from_pretrained(find_model('smollm2'))
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
                         tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='smollm2', help='the student: smollm2, a folder, or a Hub id')
    parser.add_argument('--tiny', action='store_true', help='a random two-layer model and short completions, to see that all works')
    parser.add_argument('--turns', type=int, default=3)
    parser.add_argument('--first', type=int, default=0, help='number of the first turn: odd turns go backwards')
    parser.add_argument('--updates', type=int, default=1, help='that count, of each arm in each turn')
    parser.add_argument('--tokens', type=int, default=128, help='of each completion')
    parser.add_argument('--only', nargs='*', default=['vllm', 'transformers'], choices=('vllm', 'transformers'), help='these arms of this checkout')
    parser.add_argument('--old', type=Path, help='another checkout of cgd, with its .venv')
    parser.add_argument('--out', help='a CSV file for every single measurement')
    parser.add_argument('--method', default='grpo', help='grpo, sdft, sdpo, or another that learns from its own completions and asks nobody')
    parser.add_argument('--arm', nargs=7, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm: return run_arm(*args.arm[:3], *map(int, args.arm[3:6]), args.arm[6])
    if args.tiny: args.tokens = 16
    arms = [*args.only, *(['old'] if args.old else [])]
    with tempfile.TemporaryDirectory() as folder: rows = measure(arms, tiny_model(folder) if args.tiny else args.model, args)
    if args.out: pd.DataFrame(rows).to_csv(args.out, index=False, float_format='%.6g')
    report(rows, arms)


if __name__ == '__main__': main()
