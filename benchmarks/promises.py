"""What the papers of some relatives promise of a method, looked for in the embedded student on problems it has not learnt from.

    python benchmarks/promises.py                     # 96 problems to learn from, 3 epochs, 60 to test on
    python benchmarks/promises.py --train 512 --test 200 --student Qwen/Qwen2.5-0.5B --out runs/promises/qwen.csv

Ten students are trained on one table, whose teacher is the oracle, and two reward models on votes of the expert. Everything is kept under --folder: the same command goes
on where it was stopped. A line of the table is a promise, a measure, a student and its value with a 95% interval over problems; `n` is how many problems. One seed: what is seen
is a property of these checkpoints.
"""
import argparse
import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pandas as pd

from cgd import evaluate
from cgd.analysis import judge_steps
from cgd.core import derive_seed, read_table, write_atomic
from cgd.data import load_problems
from cgd.engines import choose_engine, open_engine
from cgd.generate import score
from cgd.loop import measure_help, retry
from cgd.methods import ASK
from cgd.pipeline import run
from cgd.plan import Plan, RunConfig
from cgd.process import launch
from cgd.recipe import PreferConfig
from cgd.relatives import BALANCED, LENGTHS, ask_length, split_steps
from cgd.rollouts import draft
from cgd.stats import mean_interval
from cgd.store import SampleConfig, ScoreRequest, Store
from cgd.teacher import TeacherConfig, critique, open_teacher
from cgd.views import build
from cgd.vote import pay_by_model

STAGED = 'dsft', 'dsft-then-dsft_short', 'dsft-then-dsft_short-then-dsft_answer'
METHODS = *STAGED, 'sft', 'sft_answer', 'ls_mix', 'ls_coded', 'reorder', 'cgd'
BARE = '{prompt}\n\nPut the final answer in \\boxed{}.'   # asks for no steps
ENGINE = dict(dtype='float32')   # bfloat16 differs from processor to processor


def trained(args, name: str, methods: tuple, epochs: int) -> dict[str, str]:
    "The folders of the tuned students, by method"
    cfg = RunConfig(name=name, folder=args.folder, student=args.student, teacher='oracle', n_problems=args.train, methods=methods,
                    store=str(args.store), engine=ENGINE, adapters='merge',
                    train=dict(epochs=epochs, batch_size=8, device_batch_size=4))
    run(cfg, 'train')
    return {m: str(cfg.path('models', f'{m}-merged')) for m in Plan(cfg).trainings}


def line(promise: str, measure: str, student: str, values: list) -> dict:
    value, low, high = mean_interval([float(v) for v in values])
    return dict(promise=promise, measure=measure, student=student, n=len(values), value=value, low=low, high=high)


class Asked:
    "The students' answers and scores, kept"
    def __init__(self, args, students: dict[str, str]):
        self.students, self.store, self.tests = students, args.store, load_problems('test', args.test).rows
        self.set, self.tokens, self.voted = f'test:{args.test}', args.max_new_tokens, args.voted

    def answers(self, student: str, template: str = ASK) -> list[dict]:
        return evaluate(self.students[student], self.set, str(self.store), engine=ENGINE, template=template,
                        max_new_tokens=self.tokens).records

    def log_probs(self, student: str, texts: list[str], template: str = ASK, problems: list[dict] = ()) -> list[float]:
        "Mean log-probability of a token of each text, as an answer to the problem of its place; by default of the test problems"
        asked = [ScoreRequest(t['problem_id'], [dict(role='user', content=template.replace('{prompt}', t['prompt']))], text)
                 for t, text in zip(problems or self.tests, texts)]
        folder = self.students[student]
        with open_engine(f'{choose_engine(folder)}:{folder}', **ENGINE) as engine, Store(self.store) as store:
            return [sum(s.logprobs)/len(s.logprobs) for s in score(engine, asked, store, 'promises')]


def answer_alone(asked: Asked) -> list[dict]:
    "OPT-R: tuned on answers alone, a student answers without steps"
    found = {m: asked.answers(m) for m in ('sft', 'sft_answer')}
    return [line('sft_answer writes no steps', measure, m, [value(r) for r in rows]) for m, rows in found.items() for measure, value in
            (('share without a step', lambda r: judge_steps(r['completion'], r['reference']) == 'none'), ('tokens', lambda r: r['completion_tokens']))]


def less_and_less(asked: Asked) -> list[dict]:
    "TwT: each stage writes less, and stages prepare better for answers alone than as many updates on them"
    boxed = [f'\\boxed{{{t["reference"]}}}' for t in asked.tests]
    return [line('each stage of TwT writes less', 'tokens', m, [r['completion_tokens'] for r in asked.answers(m, BARE)]) for m in STAGED] + \
        [line('stages prepare for the answer', 'log p of the boxed answer, a token', m, asked.log_probs(m, boxed, BARE)) for m in (STAGED[-1], 'dsft_answer')]


def as_long_as_asked(asked: Asked) -> list[dict]:
    "Long-Short Mixture: one student, three lengths; a student of one length does not heed the words"
    asks = dict(brief=LENGTHS['short'], balanced=None, detailed=LENGTHS['direct'])
    lines = []
    for m in ('ls_mix', 'dsft'):
        for name, how in asks.items():
            rows = asked.answers(m, BALANCED if how is None else ASK.replace('{prompt}', f'{{prompt}}\n\n{how}'))
            lines += [line('ls_mix writes as long as asked', f'{what}, {name}', m, [v(r) for r in rows])
                      for what, v in (('tokens', lambda r: r['completion_tokens']), ('right', lambda r: r['flexible'] == 'right'))]
    return lines


def as_long_as_coded(asked: Asked) -> list[dict]:
    "Referee: a code for the length is heeded"
    return [line('ls_coded heeds the code', f'characters, code {code}', m, [len(r['completion']) for r in asked.answers(m, ask_length(code))])
            for m in ('ls_coded', 'dsft') for code in (2, 9)]


def in_order(asked: Asked) -> list[dict]:
    "BRIDGE: after putting steps in order, a chain in order is likelier than out of order, by more than after learning the chains as they are"
    problems = [t for t in load_problems('test').rows if len(set(split_steps(t['solution'])[0])) > 1][:len(asked.tests)]
    def mixed(text, name):
        steps, last = split_steps(text)
        draw, other = random.Random(derive_seed(0, name)), [*steps]
        while other == steps: draw.shuffle(other)
        return '\n'.join([*other, last])
    chains = [t['solution'] for t in problems]
    others = [mixed(c, t['problem_id']) for c, t in zip(chains, problems)]
    def gap(m): return [a - b for a, b in zip(*(asked.log_probs(m, texts, problems=problems) for texts in (chains, others)))]
    base = gap('base')
    return [line('reorder learns the order of steps', 'log p in order less out of order, a token; gain', m,
                 [a - b for a, b in zip(gap(m), base)]) for m in ('reorder', 'dsft')]


def helped(asked: Asked) -> list[dict]:
    "AutoMathCritique: the more a critique tells, the more it helps a student that was trained to use one"
    how, lines, folder = SampleConfig(max_new_tokens=asked.tokens), [], asked.students['cgd']
    with open_engine(f'{choose_engine(folder)}:{folder}', **ENGINE) as engine, Store(asked.store) as store:
        drafts = draft(asked.tests, engine, store, how)
        for detail in ('exact', 'withheld', 'vague', 'irrelevant'):
            with open_teacher('oracle', TeacherConfig(detail=detail)) as teacher: rows = critique(drafts, teacher, store)
            lines.append(dict(promise='better critiques help more', measure=f'help of {detail} critiques', student='cgd',
                              **measure_help(retry(rows, engine, store, how))))
    return lines


def reward_model(asked: Asked) -> list[dict]:
    """Distill Not Only Data but Also Rewards: learnt from votes alone, it ranks answers to new problems; with labels turned round in half of the pairs, it does not

    Most pairs of votes are of two writers, teacher and student, so a model that knows the writer ranks them. Hence a second measure, of the untrained
    student's own answers by the data's grade; and the labels are turned round in exactly half of the pairs: turned at random they would favour one writer."""
    cfg = RunConfig(name='votes', folder=str(asked.store.parent), student=asked.students['base'], n_problems=asked.voted, methods=('dpo_voted',), store=str(asked.store),
                    teacher='expert', engine=ENGINE, teacher_engine=ENGINE, draft=dict(n=4, temperature=.7, max_new_tokens=asked.tokens), teach=dict(temperature=1.))
    run(cfg, 'refine')
    traces = read_table(cfg.path('traces.parquet'))
    names = [*dict.fromkeys(t['problem_id'] for t in traces)]
    new = {*names[:len(names)//4]}
    old, held = (build([t for t in traces if (t['problem_id'] in new) == side], 'dpo_voted', cfg.views) for side in (False, True))
    turned, lines = {*random.Random(0).sample(range(len(old)), len(old)//2)}, []
    swapped = replace(old, rows=[r | dict(completion=r['rejected'], rejected=r['completion']) if i in turned else r for i, r in enumerate(old.rows)])
    pairs = {'pairs of a vote ranked rightly': [(r['prompt'], r['completion'][0]['content'], r['rejected'][0]['content']) for r in held.rows],
             "the student's own answers ranked rightly": own_answers(asked)}
    for name, learnt in (('votes', old), ('labels turned round in half', swapped)):
        folder = cfg.path('models', name.replace(' ', '-'))
        how = PreferConfig(tuning='full', lr=1e-5, epochs=2, batch_size=8, device_batch_size=4)
        launch('cgd.train:fit', learnt, how, asked.students['base'], folder, trainer='cgd.preferences:reward_trainer')
        lines += [line('a reward model from votes ranks new answers', measure, f'reward model, {name}', ranked(str(folder), some)) for measure, some in pairs.items()]
    return lines


def own_answers(asked: Asked) -> list[tuple]:
    "Prompt, right answer and wrong answer: of four by the untrained student to each test problem"
    folder, how, found = asked.students['base'], SampleConfig(n=4, temperature=.7, max_new_tokens=asked.tokens), defaultdict(lambda: defaultdict(list))
    with open_engine(f'{choose_engine(folder)}:{folder}', **ENGINE) as engine, Store(asked.store) as store: drafts = draft(asked.tests, engine, store, how)
    for r in drafts:
        if r['draft_finish'] == 'stop': found[r['prompt']][r['draft_grade']].append(r['draft'])
    return [([dict(role='user', content=ASK.replace('{prompt}', problem))], right, wrong)
            for problem, some in found.items() for right in some['right'] for wrong in some['wrong']]


def ranked(folder: str, pairs: list[tuple]) -> list[float]:
    "Of each problem the share of pairs whose better answer gets more"
    def paid(side): return pay_by_model(folder, [p[side] for p in pairs], [dict(messages=p[0], completion_finish='stop') for p in pairs])
    found = defaultdict(list)
    for (asked, *_), better, worse in zip(pairs, paid(1), paid(2)): found[asked[0]['content']].append(better > worse)
    return [mean(some) for some in found.values()]


PROMISES = answer_alone, less_and_less, as_long_as_asked, as_long_as_coded, in_order, helped, reward_model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--student', default='smollm2', help='smollm2, a folder, or a Hub id')
    parser.add_argument('--train', type=int, default=96, help='problems to learn from; default 96')
    parser.add_argument('--epochs', type=int, default=3, help='of each training; default 3')
    parser.add_argument('--test', type=int, default=60, help='test problems; default 60')
    parser.add_argument('--voted', type=int, default=120, help='problems of the votes, a quarter of them held out; default 120')
    parser.add_argument('--max-new-tokens', type=int, default=192, help='of an answer; default 192')
    parser.add_argument('--folder', default='runs/promises', help='where students and answers are kept')
    parser.add_argument('--out', default='data/results/promises.csv')
    args = parser.parse_args()
    args.store = Path(args.folder, 'store.sqlite')
    students = dict(base=args.student) | trained(args, 'students', METHODS, args.epochs)
    students |= trained(args, 'as-long', ('dsft_answer',), args.epochs*len(STAGED))   # as many updates as the stages together
    asked, lines = Asked(args, students), []
    for promise in PROMISES:
        lines += promise(asked)
        write_atomic(args.out, pd.DataFrame(lines).to_csv(index=False, float_format='%.4f'))
    print(pd.DataFrame(lines).round(3).to_string(index=False))


if __name__ == '__main__': main()
