"""Where a run's time goes: by stage and by kind of work, from what its own processes noted (timing.jsonl in its folder).

    python benchmarks/profile.py [CONFIG.yaml or RUN FOLDER] [--steps 4] [--method cgd] [--keep FOLDER] [--out FILE.csv]

Of a folder the run that is there is read, and nothing is run again. Of a config a run is made and read; without either, a small one (configs/cpu.yaml with 16 problems and 16 test
problems): its start-ups weigh more than a real run's. Every second of the run's wall time is counted once: "rest" is what nothing accounts for.

An ordinary run knows a training step as one kind. So a few more steps are trained at the end, on the run's own pairs in a process of their own, with clocks around forward, backward and
optimiser (the first step, which warms up, is left out), and the last one under torch.profiler, which slows it down: its kinds of operations are given as shares alone. `--steps 0` leaves that out.
"""
import sys

if __name__ == 'profile':   # whoever imports torch from this folder wants the standard library's module of this name, for cProfile
    import os
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location('profile', os.path.join(os.path.dirname(os.__file__), 'profile.py'))
    sys.modules['profile'] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules['profile'])

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd

from cgd.core import CgdError, read_times, shipped, write_atomic
from cgd.costs import time_table

CGD = [sys.executable, '-c', 'import sys; from cgd.cli import main; sys.exit(main())']
SMALL = ['--n-problems', '16', '--benchmarks', 'test:16', '--train.epochs', '1']
OPERATIONS = {   # of one step, by the names of torch's own operations
    'attention': ('attention', 'sdpa'), 'matrix products': ('mm', 'matmul', 'linear', 'mkldnn', 'bmm', 'gemm'),
    'copies and casts': ('copy', '_to', 'clone', 'cat', 'contiguous', 'fill', 'zero', 'index', 'gather', 'scatter', 'embedding', 'slice', 'stack'),
    'optimiser': ('adam', 'optimizer', 'foreach', 'norm_backward_', 'linalg'), 'normalisation and softmax': ('norm', 'softmax', 'rsqrt', 'mean', 'sum', 'pow', 'loss'),
    'element-wise': ('mul', 'add', 'sub', 'div', 'silu', 'sigmoid', 'neg', 'sin', 'cos', 'exp', 'where', 'sqrt', 'lerp')}


def run_of(what: str, keep: str) -> Path:
    "The folder of the run that is meant; a config is run first"
    if Path(what).is_dir(): return Path(what)
    words = [what] if what else [str(shipped('configs/cpu.yaml')), *SMALL]
    subprocess.run([*CGD, 'run', *words, '--folder', keep, '--name', 'profiled'], check=True)
    return Path(keep)/'profiled'


def by_kind(rows: list[dict]) -> pd.DataFrame:
    "Seconds: a row a stage and method, a column a kind, the greatest kind first"
    table = pd.DataFrame(rows).assign(stage=lambda t: (t.stage + ' ' + t.method).str.strip().replace('', '(between)'))
    wide = table.pivot_table('seconds', 'stage', 'kind', 'sum', sort=False).fillna(0)
    wide = wide[wide.sum().sort_values(ascending=False).index].assign(all=lambda t: t.sum(axis=1))
    wide.loc['all'] = wide.sum()
    wide.loc['%'] = 100 * wide.loc['all'] / wide.loc['all', 'all']
    return wide


def said(rows: list[dict]) -> str:
    "What the run's time goes to, in words"
    total, kinds = sum(r['seconds'] for r in rows), Counter()
    for r in rows: kinds[r['kind']] += r['seconds']
    first, most = max(rows, key=lambda r: r['seconds']), kinds.most_common(3)
    place = ' '.join(filter(None, (first['stage'], first['method']))) or 'start and end'
    return (f'{total:.0f} s of wall time in {rows[0]["sittings"]} sitting(s). Most of it: ' + ', '.join(f'{k} {100 * s / total:.0f}%' for k, s in most) +
            f'; the greatest single part: {first["kind"]} of {place}, {100 * first["share"]:.0f}%. Not accounted for: {100 * kinds["rest"] / total:.1f}%.')


class Clock:
    "Seconds by part of a step, and the first step left out"
    def __init__(self): self.steps, self.parts, self.inside = [], Counter(), 0

    def now(self) -> float:
        import torch
        if torch.cuda.is_available(): torch.cuda.synchronize()
        return time.perf_counter()

    def around(self, part: str, function):
        "The same function, timed; what it calls of the kind is part of it"
        def timed(*args, **named):
            start, self.inside = self.now(), self.inside + 1
            try: return function(*args, **named)
            finally:
                self.inside -= 1
                if not self.inside: self.parts[part] += self.now() - start
        return timed


def watched(trainer, clock: Clock, profiled: dict, steps: int):
    "Clocks around the parts of the trainer's steps, and torch.profiler around the last"
    from torch.profiler import profile
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, **kw): optimizer.step = clock.around('optimiser', optimizer.step)

        def on_step_begin(self, args, state, control, **kw):
            clock.parts, self.start = Counter(), clock.now()
            if state.global_step == steps - 1: self.profile = profile(); self.profile.start()

        def on_step_end(self, args, state, control, **kw):
            if state.global_step == steps: self.profile.stop(); profiled.update(operations(self.profile))
            else: clock.steps.append(dict(clock.parts) | dict(all=clock.now() - self.start))
    trainer.add_callback(Steps())
    trainer.compute_loss = clock.around('forward', trainer.compute_loss)
    trainer.accelerator.backward = clock.around('backward', trainer.accelerator.backward)
    trainer.accelerator.clip_grad_norm_ = clock.around('optimiser', trainer.accelerator.clip_grad_norm_)


def operations(profile) -> dict[str, float]:
    "Shares of a profiled step's own time by kind of operation"
    sums = Counter()
    for event in profile.key_averages():
        name = event.key.lower()
        own = getattr(event, 'self_device_time_total', 0) or event.self_cpu_time_total
        sums[next((kind for kind, words in OPERATIONS.items() if any(w in name for w in words)), 'other')] += own
    return {kind: own / sums.total() for kind, own in sums.most_common()}


def train_steps(folder: Path, method: str, steps: int, out: str):
    "A few steps of a run's training, in this process; what they took goes to a file"
    from importlib import import_module
    from cgd.plan import RunConfig
    module = import_module('cgd.train')   # the package's own `train` is a function
    cfg, clock, profiled = RunConfig.load(folder/'config.yaml'), Clock(), {}
    recipe = cfg.train.model_copy(update=dict(epochs=1, save_steps=10**6))
    pairs = module._as_pairs(folder/'pairs'/f'{method}.jsonl')
    pairs.rows[:] = (pairs.rows * steps)[:recipe.batch_size * steps]
    go = module.run_trainer

    def watch(trainer, *rest):
        watched(trainer, clock, profiled, steps)
        return go(trainer, *rest)
    module.run_trainer = watch
    with tempfile.TemporaryDirectory() as made: record = module.fit(pairs, recipe, cfg.student, Path(made)/method, thinking=cfg.engine.thinking)
    Path(out).write_text(json.dumps(dict(steps=clock.steps[1:], operations=profiled, backend=record['backend'], dtype=record['dtype'], tokens=record['tokens'], n=record['steps'])))


def split(folder: Path, method: str, steps: int) -> str:
    "What a training step of the run is made of; '' if it trained on no pairs"
    from cgd.trainer import train_env
    files = sorted(f.stem for f in (folder/'pairs').glob('*.jsonl'))
    if not files: return ''
    method = method or ('cgd' if 'cgd' in files else files[0])
    with tempfile.TemporaryDirectory() as made:
        out = Path(made)/'steps.json'
        done = subprocess.run([sys.executable, __file__, str(folder), '--steps', str(steps), '--method', method, '--steps-to', str(out)], env=os.environ | train_env(), capture_output=True, text=True)
        if done.returncode: raise CgdError(f'{folder}: its training did not go: {done.stderr.strip().splitlines()[-1]}')
        found = json.loads(out.read_text())
    table = pd.DataFrame(found['steps']).fillna(0)
    table['other'] = table['all'] - table.drop(columns='all').sum(axis=1)
    middle = table.median()
    parts = ', '.join(f'{part} {100 * middle[part] / middle["all"]:.0f}%' for part in ('forward', 'backward', 'optimiser', 'other') if part in middle)
    shares = ', '.join(f'{kind} {100 * share:.0f}%' for kind, share in found['operations'].items())
    return (f'A training step of {method} ({found["backend"]}, {found["dtype"]}; median of {len(table)}): {middle["all"]:.2f} s ({table["all"].min():.2f} to {table["all"].max():.2f}), {parts}.\n'
            f'Its operations, under torch.profiler (one step, shares of their own time): {shares}.')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', nargs='?', default='', help="a config, or a run's folder")
    parser.add_argument('--steps', type=int, default=4, help='training steps to look into; 0: none, else at least 3')
    parser.add_argument('--method', default='', help='whose training steps: cgd, if the run has it')
    parser.add_argument('--keep', help='a folder for the run that a config makes; else it is deleted')
    parser.add_argument('--out', help='a CSV file for the table')
    parser.add_argument('--steps-to', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps_to: return train_steps(Path(args.what), args.method, args.steps, args.steps_to)
    if 0 < args.steps < 3: parser.error('--steps: the first warms up and the last is slowed down by the profiler, so take 3 or more')
    with tempfile.TemporaryDirectory() as made:
        folder = run_of(args.what, args.keep or made)
        rows = time_table(read_times(folder))
        if not rows: raise SystemExit(f'{folder}: no timing.jsonl there, or nothing in it: a run of before has none')
        if args.out: write_atomic(args.out, pd.DataFrame(rows).to_csv(index=False, float_format='%.6g'))
        print(f'\n{by_kind(rows).to_string(float_format=lambda v: f"{v:,.1f}")}\n\n{said(rows)}')
        if args.steps: print(split(folder, args.method, args.steps))


if __name__ == '__main__': main()
