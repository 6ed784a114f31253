"""What fast training is worth: the same rows, the same 16 pairs an update, one thing changed at a time.

    python benchmarks/train.py [--model smollm2] [--repeats 3] [--steps 4] [--device-rows 4] [--out data/results/train.csv]
    python benchmarks/train.py --tiny     # a smoke test with a random two-layer model: the numbers mean nothing

Each arm differs from another in one thing. `naive` pads batches drawn at random and computes logits at every position, as a plain training loop
does; `random` computes them for the completion only; `grouped`, `padding_free` and `packed` waste less on padding; `unsloth` is `grouped` by
Unsloth. Every arm trains by `cgd.train` in a process of its own (Linux: its peak memory is VmHWM; on a GPU, what torch allocated). It sees every
row twice: the first pass warms up, the second is measured. The arms take turns, and a ratio compares two arms of the same turn; shown are
medians, and the lowest and highest.

Speed is in non-padding tokens a second, so an arm that pads less can be faster than random padding by 1/(1 - padding share) at most: the limit.
The rows are cgd pairs of shipped problems. Their drafts are those that the student wrote (nbs/recordings), dealt out to other problems, as only
lengths matter here; critique and refinement are the oracle teacher's.
"""
import argparse
import statistics
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

import cgd.train
from cgd.process import launch
from cgd.core import read_table, write_atomic
from cgd.data import load_problems
from cgd.models import find_model
from cgd.teacher import critique, open_teacher, refine
from cgd.recipe import TrainConfig
from cgd.trainer import read_losses, train_env
from cgd.views import Pairs, build
from cgd.masks import length_audit, lengths

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


RANDOM = dict(backend='trl', order='random', batching='padded')
GROUPED = dict(order='grouped', batching='padded')
ARMS = dict(
    naive=Arm(RANDOM, full_logits=True),
    random=Arm(RANDOM, 'naive', 'logits of the completion only', same_batches=True),
    grouped=Arm(GROUPED | dict(backend='trl'), 'random', 'pairs of like length share a batch'),
    padding_free=Arm(RANDOM | dict(batching='padding_free'), 'random', 'pairs laid end to end', same_batches=True),
    packed=Arm(RANDOM | dict(batching='packed'), 'random', 'pairs sorted into portions of even length, laid end to end'),
    unsloth=Arm(GROUPED | dict(backend='unsloth'), 'grouped', 'Unsloth', same_batches=True))


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
    make = cgd.train._trainer

    def watched(*args, **kwargs):
        trainer = make(*args, **kwargs)
        loss = every_logit if full_logits else trainer.compute_loss

        def noted(model, inputs, *rest, **named):
            seen['batches'].append(inputs['input_ids'].numel())
            return loss(model, inputs, *rest, **named)
        trainer.compute_loss, seen['loaded'] = noted, megabytes(peak=False)
        return trainer
    cgd.train._trainer = watched


def run_arm(name: str, settings: dict, pairs: Pairs, base: str, out: str) -> dict:
    "Train one arm in this process: what its second pass took"
    seen = dict(batches=[])
    watch(ARMS[name].full_logits, seen)
    record = cgd.train._fit_in_child(pairs, settings | ARMS[name].settings, base, out, False)
    losses = read_losses(out)
    warm, end = [r for r in losses if r['epoch'] <= 1][-1], losses[-1]
    second = seen['batches'][len(seen['batches']) // 2:]
    return dict(arm=name, device=record['device'], dtype=record['dtype'], tokens=end['tokens'] - warm['tokens'], padded_tokens=sum(second),
                seconds=end['seconds'] - warm['seconds'], updates=end['step'], loaded_mb=seen['loaded'], peak_mb=megabytes(peak=True), losses=[r['loss'] for r in losses])


def measure(arms: list[str], pairs: Pairs, total: int, settings: dict, base: str, repeats: int) -> list[dict]:
    "All arms in turns, every other turn backwards"
    rows = []
    for turn in range(repeats):
        for name in arms[::-1] if turn % 2 else arms:
            with tempfile.TemporaryDirectory() as folder:
                row = launch('train:run_arm', name, settings | dict(seed=turn), pairs, base, str(Path(folder)/name), env=train_env())
            if row['tokens'] != total: raise SystemExit(f'{name}: trained on {row["tokens"]} tokens in a pass, but the rows have {total}')
            row |= dict(turn=turn, rate=row['tokens'] / row['seconds'], padding=1 - row['tokens'] / row['padded_tokens'])
            rows.append(row)
            print(f'turn {turn + 1}, {name}: {row["rate"]:,.0f} tokens/s, padding {row["padding"]:.0%}, peak {row["peak_mb"]:,.0f} MB', flush=True)
    return rows


def spread(values: list[float], form: str = '.2f') -> str:
    return f'{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}}, n = {len(values)})'


def by_turn(rows: list[dict], name: str) -> list[dict]: return sorted((r for r in rows if r['arm'] == name), key=lambda r: r['turn'])


def ratios(rows: list[dict], name: str, base: str, what: str) -> list[float]:
    "One arm over another, turn by turn"
    return [a[what] / b[what] for a, b in zip(by_turn(rows, name), by_turn(rows, base))]


def table(rows: list[dict], arms: list[str]) -> str:
    "One line an arm"
    lines = [{'arm': name, 'tokens/s': spread([r['rate'] for r in some], ',.0f'), 'padding': spread([r['padding'] for r in some], '.0%'), 'updates a pass': some[0]['updates'] // 2,
              'peak MB': f'{statistics.median(r["peak_mb"] for r in some):,.0f}', 'for batches': f'{statistics.median(r["peak_mb"] - r["loaded_mb"] for r in some):,.0f}'}
             for name in arms if (some := by_turn(rows, name))]
    return pd.DataFrame(lines).to_string(index=False)


def speeds(rows: list[dict], name: str, gpu: bool) -> list[str]:
    "How much faster an arm is than its base, and how near to what is possible"
    arm = ARMS[name]
    faster = ratios(rows, name, arm.base, 'rate')
    lines = [f'{name} / {arm.base} ({arm.change}): {spread(faster)} times the tokens/s' + ('; wanted on a GPU: at least 1.5' if name == 'unsloth' and gpu else '')]
    if arm.base == 'random':
        share = [f * (1 - r['padding']) for f, r in zip(faster, by_turn(rows, 'random'))]
        lines.append(f'  of the limit, {spread([1 / (1 - r["padding"]) for r in by_turn(rows, "random")])}: {spread(share)}; wanted: at least 0.80 by one of them')
    if arm.same_batches:
        apart = max(abs(a / b - 1) for x, y in zip(by_turn(rows, name), by_turn(rows, arm.base)) for a, b in zip(x['losses'], y['losses'], strict=True))
        lines.append(f'  losses differ by {apart:.2%} at most; wanted: at most 2%')
    return lines


def memory(rows: list[dict], name: str, gpu: bool) -> str:
    "An arm's peak against that of plain training"
    base, wanted = ('grouped', 'at most 0.50 on a GPU') if name == 'unsloth' and gpu else ('naive', '' if gpu else 'at most 0.80')
    return f'{name} / {base}: {spread(ratios(rows, name, base, "peak_mb"))} of the peak memory' + (f'; wanted: {wanted}' if wanted else '')


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
    parser.add_argument('--out', help='a CSV file for every single measurement')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder: report(args, tiny_model(Path(folder)) if args.tiny else args.model)


def chosen(only: list[str]) -> list[str]:
    "Arms and, before them, what they are compared with"
    wanted = {'naive'}
    for name in only:
        while name: wanted.add(name); name = ARMS[name].base
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
    if args.out: write_atomic(args.out, pd.DataFrame([{k: v for k, v in r.items() if k != 'losses'} for r in rows]).to_csv(index=False, float_format='%.6g'))
    gpu = rows[0]['device'].startswith('cuda')
    print(f'\n{args.tuning} on {rows[0]["device"]} in {rows[0]["dtype"]}, {BATCH} pairs an update, {args.device_rows} at a time\n{table(rows, arms)}\n')
    for name in arms:
        if ARMS[name].base: print('\n'.join(speeds(rows, name, gpu)))
    print()
    for name in arms[1:]: print(memory(rows, name, gpu))


if __name__ == '__main__': main()
