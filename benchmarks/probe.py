"""Uncertainty in five contexts and attention by layer: `cgd.probe.measure` against the usual loop, one context a forward pass.

    python benchmarks/probe.py [--items 24] [--turns 3] [--model smollm2] [--threads 2]

Problems are the shipped ones, drafts are the student's own greedy ones (made first, kept in benchmarks/probe.sqlite, not timed), critiques and refinements
the oracle teacher's. Ours is `measure` as the analysis calls it: new process, loading, every row committed. The loop runs in a process of its own, too: for
each refinement and context one forward pass with sdpa and log-softmax of the completion's logits only, and for attention one more pass with eager attention and
`output_attentions=True`. Both in float32 with the same threads, in turns; seconds are of the wall, with those that loading took apart, and the numbers must agree.
"""
import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from cgd.process import launch
from cgd.data import load_problems
from cgd.generate import EngineConfig
from cgd.store import SampleConfig, Store, sessions
from cgd.models import chat_ids
from cgd.engines import engine_env, choose_engine, open_engine
from cgd.probe import in_context, measure, open_probe
from cgd.rollouts import draft
from cgd.teacher import critique, open_teacher, refine

FOLDER = Path(__file__).parent


def make_traces(model: str, items: int) -> list[dict]:
    problems = load_problems('train', limit=items).rows
    with Store(FOLDER/'probe.sqlite') as store, open_engine(f'{choose_engine(model)}:{model}', max_model_len=2048) as student: drafts = draft(problems, student, store, SampleConfig())
    with open_teacher('oracle') as teacher: return refine(critique(drafts, teacher), teacher)


def loop(model: str, pairs: dict[str, list[dict]]) -> tuple[float, list[float]]:
    "Seconds after loading, and the log-probability of each refinement in each context"
    import torch
    with open_probe(model) as engine:
        engine.load()
        lm, tokenizer, found, start = engine.lm, engine.tokenizer, [], time.perf_counter()
        for context, rows in pairs.items():
            for pair in rows:
                ids, tokens = chat_ids(tokenizer, pair['prompt']), tokenizer.encode(pair['completion'][0]['content'], add_special_tokens=False)
                inputs = torch.tensor([ids + tokens])
                with torch.inference_mode():
                    lm.set_attn_implementation('sdpa')
                    logp = lm(inputs, use_cache=False, logits_to_keep=len(tokens) + 1).logits[0, :-1].log_softmax(-1)
                    found.append(logp.gather(-1, torch.tensor(tokens)[:, None]).sum().item())
                    torch.special.entr(logp.exp()).sum(-1).tolist()
                    if context == "x, y', c":
                        lm.set_attn_implementation('eager')
                        weights = lm(inputs, use_cache=False, output_attentions=True, logits_to_keep=1).attentions
                        [w[0, :, len(ids) - 1:-1].mean((0, 1)).tolist() for w in weights]
        return time.perf_counter() - start, found


def ours(model: str, traces: list[dict]) -> tuple[float, float, list[float]]:
    "Seconds in all, of these to load, and the same log-probabilities"
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)/'s.sqlite') as store:
        start = time.perf_counter()
        probed = measure(model, traces, store)
        seconds = time.perf_counter() - start
        return seconds, sessions(store)[0]['load_seconds'], [s.logprob for scores in probed.scores.values() for s in scores]


def said(values: list[float]) -> str: return f'{median(values):.2f} ({min(values):.2f} to {max(values):.2f})'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--items', type=int, default=24)
    parser.add_argument('--turns', type=int, default=3)
    parser.add_argument('--model', default='smollm2')
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    os.environ['OMP_NUM_THREADS'] = str(args.threads)   # children read it
    traces, seconds = make_traces(args.model, args.items), []
    rows, pairs = in_context(traces)
    for _ in range(args.turns):
        plain, expected = launch('probe:loop', args.model, pairs, env=engine_env(EngineConfig()))
        whole, load, found = ours(args.model, traces)
        seconds.append((plain, whole - load, whole))
    plain, alone, whole = zip(*seconds)
    print(f'{len(rows)} refinements, {len(pairs)} contexts and attention, {args.threads} threads, float32, {args.turns} turns: median (lowest to highest)')
    print(f'one context a pass, without loading: {said(plain)} s\nours, without loading: {said(alone)} s; with it {said(whole)} s')
    print(f'ours / one context a pass: {said([a / p for p, a, _ in seconds])}')
    print(f'log-probabilities of a refinement differ by at most {max(abs(a - b) for a, b in zip(expected, found)):.1e}')


if __name__ == '__main__': main()
