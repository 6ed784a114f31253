"""Uncertainty in four contexts and attention by layer on 200 refinements of the embedded student: shared beginnings against one context a forward pass.

    python benchmarks/probe.py [--items 200] [--baseline-items 20] [--model smollm2] [--threads 2]

Problems are the shipped ones, drafts are the student's own greedy ones (made first, kept in benchmarks/probe.sqlite, not timed), critiques and refinements
the oracle teacher's. Ours is `cgd.probe.measure` as the analysis calls it: new process, loading, every row committed. The baseline is the usual loop, in a
process of its own: for each refinement and context one forward pass with sdpa, log-softmax of the completion's logits only, and for attention one more pass with
eager attention and `output_attentions=True`; its time is taken on the first `--baseline-items` refinements and scaled up by tokens. Both in float32 with
the same threads; the numbers of both must agree. Beside wall-clock seconds stand CPU seconds, which other jobs on the machine do not change much.
"""
import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

from cgd.process import launch
from cgd.data import load_problems
from cgd.generate import EngineConfig
from cgd.store import SampleConfig, Store, sessions
from cgd.models import chat_ids
from cgd.engines import engine_env, choose_engine, open_engine
from cgd.probe import CONTEXTS, in_context, measure, open_probe
from cgd.rollouts import draft
from cgd.teacher import critique, open_teacher, refine

FOLDER = Path(__file__).parent
FOUR = tuple(CONTEXTS)[:4]


def cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def make_traces(model: str, items: int) -> list[dict]:
    problems = load_problems('train', limit=items).rows
    with Store(FOLDER/'probe.sqlite') as store, open_engine(f'{choose_engine(model)}:{model}', max_model_len=2048) as student: drafts = draft(problems, student, store, SampleConfig())
    with open_teacher('oracle') as teacher: return refine(critique(drafts, teacher), teacher)


def baseline(model: str, pairs: dict[str, list[dict]], n: int) -> tuple[float, float, int, float]:
    "Wall and CPU seconds, tokens read, and the sum of log-probabilities"
    import torch
    with open_probe(model) as engine:
        engine.load()
        lm, tokenizer, tokens_read, total, start, used = engine.lm, engine.tokenizer, 0, 0., time.perf_counter(), cpu(resource.RUSAGE_SELF)
        for context, rows in pairs.items():
            for pair in rows[:n]:
                ids, tokens = chat_ids(tokenizer, pair['prompt']), tokenizer.encode(pair['completion'][0]['content'], add_special_tokens=False)
                inputs, keep = torch.tensor([ids + tokens]), len(tokens) + 1
                tokens_read += inputs.numel()
                with torch.inference_mode():
                    logp = lm(inputs, use_cache=False, logits_to_keep=keep).logits[0, :-1].log_softmax(-1)
                    total += logp.gather(-1, torch.tensor(tokens)[:, None]).sum().item()
                    torch.special.entr(logp.exp()).sum(-1).tolist()
                    if context == "x, y', c":
                        lm.set_attn_implementation('eager')
                        weights = lm(inputs, use_cache=False, output_attentions=True, logits_to_keep=1).attentions
                        [w[0, :, len(ids) - 1:-1].mean((0, 1)).tolist() for w in weights]
                        lm.set_attn_implementation('sdpa')
        return time.perf_counter() - start, cpu(resource.RUSAGE_SELF) - used, tokens_read, total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--items', type=int, default=200)
    parser.add_argument('--baseline-items', type=int, default=20)
    parser.add_argument('--model', default='smollm2')
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    os.environ['OMP_NUM_THREADS'] = str(args.threads)   # children read it
    traces = make_traces(args.model, args.items)
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)/'s.sqlite') as store:
        start, used = time.perf_counter(), cpu(resource.RUSAGE_CHILDREN)
        probed = measure(args.model, traces, store, contexts=FOUR)
        ours, ours_cpu = time.perf_counter() - start, cpu(resource.RUSAGE_CHILDREN) - used
        made = sessions(store)[0]
    n = min(args.baseline_items, len(probed.rows))
    plain, plain_cpu, read, total = launch('probe:baseline', args.model, in_context(traces, contexts=FOUR)[1], n, env=engine_env(EngineConfig()))
    same = sum(s.logprob for scores in probed.scores.values() for s in scores[:n])
    sizes = {c: [len(s.tokens) for s in scores] for c, scores in probed.scores.items()}
    scale = len(probed.rows) / n
    print(f'{len(probed.rows)} refinements of {sum(sizes["x"]) / len(sizes["x"]):.0f} tokens, {len(FOUR)} contexts and attention, {args.threads} threads, float32')
    print(f'ours: {ours:.0f} s wall, {ours_cpu:.0f} s CPU, with {made["load_seconds"]:.0f} s to load; {made["cached_tokens"]} of {made["prompt_tokens"]} prompt tokens were read in an earlier pass')
    print(f'one context a pass, without loading: {plain * scale:.0f} s wall, {plain_cpu * scale:.0f} s CPU ({n} refinements and {read} tokens measured, scaled)')
    print(f'ours / baseline: {ours / plain / scale:.2f} wall, {ours_cpu / plain_cpu / scale:.2f} CPU; wanted: ours under 180 s on 2 free cores')
    print(f'log-probabilities of these {n}: {same:.3f} and {total:.3f}')


if __name__ == '__main__': main()
