"""What fast training is worth: the same rows, the same 16 pairs an update, one thing changed at a time.

    python benchmarks/train.py [--model smollm2] [--repeats 3] [--steps 4] [--device-rows 4] [--out data/results/train.csv]
    python benchmarks/train.py --against CHECKOUT [--rows 32]   # this build against another one, which has an environment of its own
    python benchmarks/train.py --tiny     # a smoke test with a random two-layer model: the numbers mean nothing

Each arm differs from another in one thing. `naive` pads batches drawn at random and computes logits at every position, as a plain training loop
does; `random` computes them for the completion only; `grouped` puts pairs of like length together, `unsloth` is that by Unsloth; `padding_free`
lays pairs end to end and `packed` in portions of even length; on a CPU, `shared` computes the batch's common beginning once, `lean` takes the adapters' detours
out, and `products` (what cgd does there by itself) computes attention by plain products, in 16 bits. Every arm trains by `cgd.train` in a process of its own (Linux: its peak memory is VmHWM;
on a GPU, what torch allocated). It sees every row twice: the first pass warms up, the second is measured. The arms take turns, and a ratio
compares two arms of the same turn; shown are medians, and the lowest and highest.

Speed is in non-padding tokens a second of the rows, whether a token is computed once or for each row.
The rows are cgd pairs of shipped problems. Their drafts are those that the student wrote (nbs/recordings), dealt out to other problems, as only
lengths matter here; critique and refinement are the oracle teacher's.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from cgd.process import launch, usable_cores
from cgd.core import read_table, write_atomic
from cgd.data import load_problems
from cgd.models import find_model
from cgd.teacher import critique, open_teacher, refine
from cgd.recipe import TrainConfig
from cgd.trainer import read_losses, train_env
from cgd.views import Pairs, build
from cgd.masks import length_audit, lengths

training = import_module('cgd.train')   # the package's own `train` is a function
BATCH = 16   # pairs an update, in every arm
DRAFTS = Path(__file__).parent.parent/'nbs'/'recordings'/'drafts.jsonl'


@dataclass(frozen=True)
class Arm:
    "A way to train; it differs from `base` in nothing but `change`"
    settings: dict
    base: str = ''
    change: str = ''
    full_logits: bool = False
    same_batches: bool = False   # as its base, so that the losses have to agree
    without: tuple = ()          # functions of cgd that do nothing in it
    cpu_only: bool = False


RANDOM, GROUPED = (dict(backend='trl', order=order, batching='padded') for order in ('random', 'grouped'))
LEAN, SHARED, PRODUCTS = 'cgd.loading.lean_adapters', 'cgd.batches._share_beginnings', 'cgd.batches._by_products'
ARMS = dict(
    naive=Arm(RANDOM, full_logits=True, without=(LEAN,)),
    random=Arm(RANDOM, 'naive', 'logits of the completion only', same_batches=True, without=(LEAN,)),
    grouped=Arm(GROUPED, 'random', 'pairs of like length share a batch', without=(LEAN,)),
    unsloth=Arm(GROUPED | dict(backend='unsloth'), 'grouped', 'Unsloth', same_batches=True),
    padding_free=Arm(GROUPED | dict(batching='padding_free'), 'grouped', 'pairs laid end to end', same_batches=True, without=(LEAN, SHARED, PRODUCTS)),
    packed=Arm(RANDOM | dict(batching='packed'), 'padding_free', 'pairs sorted into portions of even length', without=(LEAN, SHARED, PRODUCTS)),
    shared=Arm(GROUPED | dict(batching='padding_free'), 'padding_free', 'a common beginning once', same_batches=True, without=(LEAN, PRODUCTS), cpu_only=True),
    lean=Arm(GROUPED | dict(batching='padding_free'), 'shared', 'adapters without detours', same_batches=True, without=(PRODUCTS,), cpu_only=True),
    products=Arm(GROUPED | dict(batching='padding_free'), 'lean', 'attention by plain products', same_batches=True, cpu_only=True))


def cgd_pairs(n: int) -> Pairs:
    "Pairs with the lengths of real ones"
    drafts, problems = read_table(DRAFTS), load_problems('train', n).rows
    traces = [dict(p, student='smollm2', sample=0, draft=drafts[i % len(drafts)]['text']) for i, p in enumerate(problems)]
    with open_teacher('oracle') as teacher: return build(refine(critique(traces, teacher), teacher), 'cgd')


def tiny_model(folder: Path) -> str:
    "A two-layer llama of random weights with the embedded student's tokenizer"
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(find_model('smollm2'))
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    LlamaForCausalLM(config).save_pretrained(folder); tokenizer.save_pretrained(folder)
    return str(folder)


def megabytes(peak: bool) -> float:
    "What this process holds, or held at its peak"
    import torch
    if torch.cuda.is_available(): return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / 1e6
    field = 'VmHWM:' if peak else 'VmRSS:'
    return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith(field)) * 1024 / 1e6


def every_logit(model, inputs, num_items_in_batch=None):
    "The model's own loss, which needs logits at all positions, padding among them"
    return model(**inputs, num_items_in_batch=num_items_in_batch, use_cache=False).loss


def watch(full_logits: bool, seen: dict):
    "Have this process's trainer note the size of every batch, and the memory before the first"
    make = training._trainer

    def watched(*args, **kwargs):
        trainer = make(*args, **kwargs)
        loss = every_logit if full_logits else trainer.compute_loss

        def noted(model, inputs, *rest, **named):
            seen['batches'].append(inputs['input_ids'].numel())   # computed: padding counts, and a shared beginning once
            return loss(model, inputs, *rest, **named)
        trainer.compute_loss, seen['loaded'] = noted, megabytes(peak=False)
        return trainer
    training._trainer = watched


def leave_out(functions: tuple):
    "Have functions of cgd, named with their modules, do nothing in this process"
    for name in functions:
        module, _, function = name.rpartition('.')
        setattr(import_module(module), function, lambda *args: None)


def run_arm(name: str, settings: dict, pairs: Pairs, base: str, out: str) -> dict:
    "Train one arm in this process: what its second pass took"
    seen = dict(batches=[])
    watch(ARMS[name].full_logits, seen)
    leave_out(ARMS[name].without)
    record = training.fit(pairs, TrainConfig.make(settings | ARMS[name].settings), base, out)
    losses = read_losses(out)
    warm, end = [r for r in losses if r['epoch'] <= 1][-1], losses[-1]
    second = seen['batches'][len(seen['batches']) // 2:]
    return dict(arm=name, device=record['device'], dtype=record['dtype'], tokens=end['tokens'] - warm['tokens'], computed_tokens=sum(second),
                seconds=end['seconds'] - warm['seconds'], updates=end['step'], loaded_mb=seen['loaded'], peak_mb=megabytes(peak=True), losses=[r['loss'] for r in losses])


def measure(arms: list[str], pairs: Pairs, total: int, settings: dict, base: str, repeats: int) -> list[dict]:
    "All arms in turns, every other turn backwards"
    rows = []
    for turn in range(repeats):
        for name in arms[::-1] if turn % 2 else arms:
            with tempfile.TemporaryDirectory() as folder:
                row = launch('train:run_arm', name, settings | dict(seed=turn), pairs, base, str(Path(folder)/name), env=train_env())
            if row['tokens'] != total: raise SystemExit(f'{name}: trained on {row["tokens"]} tokens in a pass, but the rows have {total}')
            row |= dict(turn=turn, rate=row['tokens'] / row['seconds'], computed=row['computed_tokens'] / row['tokens'])
            rows.append(row)
            print(f'turn {turn + 1}, {name}: {row["rate"]:,.0f} tokens/s, {row["computed"]:.2f} of them computed, peak {row["peak_mb"]:,.0f} MB', flush=True)
    return rows


def spread(values: list[float], form: str = '.2f') -> str:
    return f'{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}}, n = {len(values)})'


def by_turn(rows: list[dict], name: str) -> list[dict]: return sorted((r for r in rows if r['arm'] == name), key=lambda r: r['turn'])


def ratios(rows: list[dict], name: str, base: str, what: str) -> list[float]:
    "One arm over another, turn by turn"
    return [a[what] / b[what] for a, b in zip(by_turn(rows, name), by_turn(rows, base))]


def table(rows: list[dict], arms: list[str]) -> str:
    "One line an arm"
    lines = [{'arm': name, 'tokens/s': spread([r['rate'] for r in some], ',.0f'), 'computed': spread([r['computed'] for r in some]), 'updates a pass': some[0]['updates'] // 2,
              'peak MB': f'{statistics.median(r["peak_mb"] for r in some):,.0f}', 'for batches': f'{statistics.median(r["peak_mb"] - r["loaded_mb"] for r in some):,.0f}'}
             for name in arms if (some := by_turn(rows, name))]
    return pd.DataFrame(lines).to_string(index=False)


def speeds(rows: list[dict], name: str, gpu: bool) -> list[str]:
    "How much faster an arm is than its base, and how near to what is possible"
    arm = ARMS[name]
    faster = ratios(rows, name, arm.base, 'rate')
    lines = [f'{name} / {arm.base} ({arm.change}): {spread(faster)} times the tokens/s' + ('; wanted on a GPU: at least 1.5' if name == 'unsloth' and gpu else '')]
    if arm.same_batches:
        apart = max(abs(a / b - 1) for x, y in zip(by_turn(rows, name), by_turn(rows, arm.base)) for a, b in zip(x['losses'], y['losses'], strict=True))
        lines.append(f'  losses differ by {apart:.2%} at most; wanted: at most 2%')
    return lines


def memory(rows: list[dict], name: str, gpu: bool) -> str:
    "An arm's peak against that of plain training"
    base, wanted = ('grouped', 'at most 0.50 on a GPU') if name == 'unsloth' and gpu else ('naive', '' if gpu else 'at most 0.80')
    return f'{name} / {base}: {spread(ratios(rows, name, base, "peak_mb"))} of the peak memory' + (f'; wanted: {wanted}' if wanted else '')


OTHER = """import json, sys, time
from cgd.train import TrainConfig, train   # where builds of any age have both
if __name__ == '__main__':
    began, (pairs, settings, base, out) = time.monotonic(), json.loads(sys.argv[1])
    known = train(pairs, TrainConfig.make(settings), base, out, progress=False)
    print(json.dumps(dict(wall=time.monotonic() - began, peak_gib=known['peak_gib'], backend=known['backend'], batching=known['batching'])))
"""


def run_build(checkout: Path, python: str, job: list) -> dict:
    "Train by the build in a folder: its losses, and tokens a second of the steps and of the whole call"
    with tempfile.TemporaryDirectory() as folder:
        script, out = Path(folder, 'go.py'), Path(folder, 'out')
        script.write_text(OTHER)
        done = subprocess.run([python, script, json.dumps([*job, str(out)])], cwd=checkout, env=os.environ | dict(PYTHONPATH=str(checkout)), capture_output=True, text=True)
        if done.returncode: raise SystemExit(done.stderr[-2000:])
        steps = read_losses(out)
    row = json.loads(done.stdout.splitlines()[-1])
    return row | dict(tokens=steps[-1]['tokens'], seconds=steps[-1]['seconds'], losses=[r['loss'] for r in steps])


def against(other: Path, args, base: str):
    "This build and another in turns, on the same pairs"
    here, rows = Path(__file__).parent.parent, []
    builds = dict(old=(other, str(other/'.venv'/'bin'/'python')), new=(here, sys.executable))
    settings = dict(epochs=args.epochs, batch_size=args.batch, device_batch_size=args.device_rows, max_length=args.max_length)   # LoRA
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder, 'cgd.jsonl')
        write_atomic(pairs, ''.join(json.dumps(r) + '\n' for r in cgd_pairs(args.rows).rows))
        for turn in range(args.repeats):
            for name, build in builds.items():
                row = run_build(*build, [str(pairs), settings, base]) | dict(arm=name, turn=turn)
                rows.append(row | dict(rate=row['tokens'] / row['seconds'], whole=row['tokens'] / row['wall']))
                print({k: round(v, 1) if isinstance(v, float) else v for k, v in rows[-1].items() if k != 'losses'}, flush=True)
                if args.out: save(args.out, rows)
    for what, form in (('rate', 'tokens/s of the steps'), ('whole', 'tokens/s of the whole call'), ('peak_gib', 'GiB at the peak')):
        each = {name: spread([r[what] for r in by_turn(rows, name)]) for name in builds}
        print(f"{form}: old {each['old']}, new {each['new']}; new/old {spread(ratios(rows, 'new', 'old', what))}")
    apart = [abs(a - b) for x, y in zip(by_turn(rows, 'new'), by_turn(rows, 'old')) for a, b in zip(x['losses'], y['losses'], strict=True)]
    print(f'losses of {len(apart)} steps: {max(apart):.1e} apart at most')


def cpu_name() -> str:
    lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').exists() else []
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), platform.processor())


def save(file: str, rows: list[dict]):
    "Every single measurement, with the processor's name"
    table = pd.DataFrame([{k: v for k, v in r.items() if k != 'losses'} | dict(cpu=cpu_name(), cores=usable_cores()) for r in rows])
    write_atomic(file, table.to_csv(index=False, float_format='%.6g'))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='smollm2', help='the student: smollm2, a folder, or a Hub id')
    parser.add_argument('--tiny', action='store_true', help='a random two-layer model and two updates, to see that all works')
    parser.add_argument('--repeats', type=int, default=3, help='turns')
    parser.add_argument('--steps', type=int, default=4, help=f'updates of {BATCH} pairs in each of the two passes')
    parser.add_argument('--device-rows', type=int, default=4, help='pairs in memory at once')
    parser.add_argument('--tuning', default='lora', choices=('lora', 'full', 'qlora'))
    parser.add_argument('--max-length', type=int, default=2048, help='tokens of a pair')
    parser.add_argument('--only', nargs='*', choices=tuple(ARMS), default=list(ARMS), help='these arms, and those they are compared with')
    parser.add_argument('--against', type=Path, help='a checkout of another build, with its own .venv, to be compared with this one')
    parser.add_argument('--rows', type=int, default=2 * BATCH, help='pairs of that comparison')
    parser.add_argument('--batch', type=int, default=BATCH, help='pairs an update of that comparison')
    parser.add_argument('--epochs', type=int, default=1, help='passes of that comparison')
    parser.add_argument('--out', help='a CSV file for every single measurement')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = tiny_model(Path(folder)) if args.tiny else args.model
        if args.against: against(args.against.absolute(), args, base)
        else: report(args, base)


def usable_cpu() -> bool:
    import torch
    return not torch.cuda.is_available()


def chosen(only: list[str]) -> list[str]:
    "Arms and, before them, what they are compared with"
    wanted = {'naive'}
    for name in only:
        while name: wanted.add(name); name = ARMS[name].base
    if not usable_cpu(): wanted -= {name for name, arm in ARMS.items() if arm.cpu_only}
    if 'unsloth' in wanted and not find_spec('unsloth'): print('unsloth is not installed: left out'); wanted.remove('unsloth')
    return [name for name in ARMS if name in wanted]


def report(args, base: str):
    from transformers import AutoTokenizer
    arms, pairs = chosen(args.only), cgd_pairs(BATCH * (2 if args.tiny else args.steps))
    counts = lengths(AutoTokenizer.from_pretrained(find_model(base)), pairs)
    total = sum(c['total'] for c in counts)
    settings = TrainConfig(tuning=args.tuning, epochs=2, batch_size=BATCH, device_batch_size=args.device_rows, max_length=args.max_length,
                           save_steps=10**6, warmup_share=0., lr=1e-4).model_dump(mode='json')
    print(f'{len(pairs)} pairs of cgd, {total} tokens; tokens by part:')
    print(pd.DataFrame(length_audit(counts, args.max_length)).to_string(index=False), flush=True)
    rows = measure(arms, pairs, total, settings, base, args.repeats)
    if args.out: save(args.out, rows)
    gpu = rows[0]['device'].startswith('cuda')
    print(f'\n{args.tuning} on {rows[0]["device"]} in {rows[0]["dtype"]}, {BATCH} pairs an update, {args.device_rows} at a time\n{table(rows, arms)}\n')
    for name in arms:
        if ARMS[name].base: print('\n'.join(speeds(rows, name, gpu)))
    print()
    for name in arms[1:]: print(memory(rows, name, gpu))


if __name__ == '__main__': main()
