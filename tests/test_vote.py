"Labels by vote: a reward model trained on them pays in GRPO, and gold answers are nowhere"
import json
import re
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification
from safetensors.torch import load_file

from cgd.core import CgdError, write_table
from cgd.models import load_tokenizer, turn_ids
from cgd.recipe import PreferConfig
from cgd.methods import METHODS, ViewConfig
from cgd.pipeline import _usable_by_all
from cgd.plan import Plan, RunConfig, plan
from cgd.preferences import _reward_base
from cgd.rivals import RLConfig, _columns, _made_from, _paying, check_rival, find_reward, fit_rival
from cgd.train import fit
from cgd.trainer import read_losses
from cgd.views import Pairs, build
from cgd.vote import _load_judge, add_vote, pay_by_model
from test_critique_grpo import write_by

ROWS = [dict(row_id=f'r{i}{j}', problem_id=f'p{i}', prompt=f'What is {i} + {i}?', reference=None, sample=j, draft=f'It is {i}, that is clear.', draft_finish='stop',
             direct=rf'{i} + {i} = {2*i}, so \boxed{{{2*i}}}.' + ' Sure.'*j, direct_finish='stop', direct_grade=None) for i in range(1, 5) for j in range(2)]
SMALL = PreferConfig(epochs=1, batch_size=4, device_batch_size=4, dtype='float32', save_steps=1000)
ROLLING = RLConfig(steps=2, prompts=2, n=2, device_batch_size=4, max_new_tokens=8, dtype='float32', save_steps=1000)


@pytest.fixture(scope='module')
def judge(tiny_student, tmp_path_factory):
    folder = tmp_path_factory.mktemp('vote')/'judge'
    fit(build(ROWS, 'dpo_voted'), SMALL.model_copy(update=dict(tuning='full')), tiny_student, folder, trainer='cgd.preferences:reward_trainer')
    return folder


def test_the_student_does_not_vote():
    "Trap: its drafts take part, and it confirms itself"
    rows = [dict(r, draft=r'\boxed{9}') for r in ROWS]
    assert {r['problem_id']: r['vote'] for r in add_vote(rows, ViewConfig())} == {f'p{i}': f'{2*i}' for i in range(1, 5)}


@pytest.mark.parametrize('method', ('dsft_voted', 'dpo_voted', 'grpo_voted'))
def test_who_cannot_vote_is_told_before(method):
    with pytest.raises(CgdError, match=f'{method} is for problems without a gold answer'): plan(RunConfig(methods=(method,), teacher='oracle'))
    with pytest.raises(CgdError, match=f'{method} counts several answers'): plan(RunConfig(methods=(method,), teacher='expert'))


def test_a_reward_model_pays_what_its_head_says(judge):
    "The whole conversation is read, as it was in training; what was cut off gets less than any"
    rows = [dict(messages=[dict(role='user', content='What is 2 + 2?')], completion_finish=finish) for finish in ('stop', 'stop', 'length')]
    paid = pay_by_model(str(judge), ['It is 4.', 'It is 2.', 'It is 4.'], rows)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(judge).eval(), load_tokenizer(str(judge))
    ids = sum(turn_ids(tokenizer, rows[0]['messages'], 'It is 4.'), [])
    with torch.inference_mode(): assert paid[0] == pytest.approx(model(torch.tensor([ids])).logits.sigmoid().item(), abs=1e-5)
    assert paid[0] != paid[1] and paid[2] == 0 < min(paid[:2])


def test_the_seed_decides_the_head(tiny_student):
    "A causal checkpoint has none; it would be another one in each process"
    def head(seed, state):
        torch.manual_seed(state)
        return _reward_base(tiny_student, SMALL.model_copy(update=dict(seed=seed))).score.weight
    assert torch.equal(head(0, 1), head(0, 2)) and not torch.equal(head(0, 1), head(1, 1))


def test_the_margin_rises_on_unseen_problems_and_not_if_labels_are_permuted(tiny_student, tmp_path):
    "One writer, who says how sure it is of an answer; most of its answers to a problem are sure ones"
    sure, unsure = ' I am quite sure of it, and it is sure.', ' Perhaps it is so, or it may not be.'
    rows = [dict(ROWS[0], row_id=f'{i}-{j}', problem_id=f'{i}', sample=j, prompt=f'What is {i} + {i}?', draft='', direct=rf'\boxed{{{2*i + (j == 2)}}}.{how}') for i in range(1, 33) for j, how in enumerate((sure, sure, unsure))]
    pairs = build(rows, 'dpo_voted')
    learnt, others = Pairs('dpo_voted', pairs.rows[:24]), Pairs('dpo_voted', pairs.rows[24:])
    permuted = Pairs('dpo_voted', [r | dict(completion=r['rejected'], rejected=r['completion']) if i % 2 else r for i, r in enumerate(learnt.rows)])   # as often this way as that
    cfg, found = SMALL.model_copy(update=dict(tuning='full', lr=1e-3, epochs=8, schedule='constant', warmup_share=0)), {}
    for name, some in dict(learnt=learnt, permuted=permuted).items():
        fit(some, cfg, tiny_student, tmp_path/name, validation=others, trainer='cgd.preferences:reward_trainer')
        found[name] = read_losses(tmp_path/name, validation=True)[-1]
    assert found['learnt']['accuracy'] == 1 and found['learnt']['margin'] > 3
    assert found['permuted']['accuracy'] < 1 and abs(found['permuted']['margin']) < .3*found['learnt']['margin']


def test_an_adapter_comes_with_its_head(tiny_student, tmp_path):
    "A causal checkpoint has none, and a random one would pay as gladly; a base that is not known by name is asked for"
    folder = tmp_path/'adapter'
    fit(build(ROWS, 'dpo_voted'), SMALL, tiny_student, folder, trainer='cgd.preferences:reward_trainer')
    with pytest.raises(CgdError, match=f'model:{folder}: an adapter of .*train it with tuning=full'): find_reward(f'model:{folder}')   # before anything begins
    record = json.loads((folder/'train.json').read_text())
    (folder/'train.json').write_text(json.dumps(record | dict(base=str(tiny_student))))
    head, = [w for name, w in load_file(folder/'adapter_model.safetensors').items() if name.endswith('score.weight')]
    kept, = [w for name, w in _load_judge(str(folder), '')[0].named_parameters() if 'score.modules_to_save' in name]
    assert torch.equal(kept, head)


def by_turns(text, refines, i):
    "Every other completion says what the vote says"
    return rf'\boxed{{{2*int(re.search(r"What is (.)", text)[1]) if i % 2 else 9}}}'


def test_it_pays_in_grpo(judge, tiny_student, tmp_path, monkeypatch):
    "Without a gold answer anywhere"
    write_by(monkeypatch, by_turns)
    cfg = ROLLING.model_copy(update=dict(rewards={f'model:{judge}': 1.}))
    record = fit_rival('grpo', ROWS, cfg, tiny_student, tmp_path/'paid')
    assert record['steps'] == 2 and record['problems'] == 4 and record['config']['rewards'] == cfg.rewards
    assert 'reward' in pd.read_csv(tmp_path/'paid'/'losses.csv')
    read, = record['asked']
    assert read['model'] == 'judge' and read['completion_tokens'] == 0 and read['requests'] == 8 and read['prompt_tokens'] > 80 and all(0 < paid < 1 for paid in record['rewards'])


def test_a_run_that_it_pays_needs_no_gold_answers(judge, tmp_path):
    def run(**rl): return RunConfig(methods=('grpo',), rl=rl, teacher='vllm:smollm2', problems=str(write_table([dict(prompt='Say something.', reference=None)], tmp_path/'mine.jsonl')))
    plan(run(rewards={f'model:{judge}': 1.}))
    with pytest.raises(CgdError, match='has no reference, which grpo needs'): plan(run())


def test_what_a_reward_model_reads_is_counted(judge):
    "Of those that ended, with their prompts"
    counted, cfg = {}, ROLLING.model_copy(update=dict(rewards={f'model:{judge}': 1.}))
    rows = [dict(messages=[dict(role='user', content='?')], read=30)]*3
    _paying(f'model:{judge}', rows, cfg, None, {7})([[dict(content='4')]]*3, [0, 1, 2], [[1, 7], [2, 3], [4, 5, 7]], log_metric=counted.__setitem__)
    assert counted == {f'model:{judge}/requests': 2, f'model:{judge}/prompt_tokens': 2*30 + 2 + 3}
    two = SimpleNamespace(state=SimpleNamespace(log_history=[{f'rewards/model:/runs/{name}/mean': 0. for name in 'ab'}]))
    assert [*_columns(two)] == ['reward_model:/runs/a', 'reward_model:/runs/b']   # a column each


def test_another_reward_model_in_its_folder_makes_another_training(judge, tiny_student, tmp_path):
    folder = shutil.copytree(judge, tmp_path/'judge')
    method, cfg = METHODS['grpo_voted'], ROLLING.model_copy(update=dict(rewards={f'model:{folder}': 1.}))
    made = lambda: _made_from(method, add_vote(ROWS, ViewConfig()), cfg, tiny_student, 'auto', None, (tiny_student, {}))
    before = made()
    assert before == made()
    with open(folder/'model.safetensors', 'r+b') as f: f.seek(-1, 2); last = f.read(1); f.seek(-1, 2); f.write(bytes([last[0] ^ 1]))
    assert before != made()
    for name in ('model:nowhere', f'model:{tmp_path}'):
        with pytest.raises(CgdError, match='no reward model there; train one'): check_rival('grpo', cfg.model_copy(update=dict(rewards={name: 1.})), tiny_student)


def outvoted_first():
    "Three of four answers are 6; the first row's own is 7, and a pair is left"
    return [dict(ROWS[0], row_id=f'r{j}', sample=j, draft=rf'\boxed{{{d}}}', direct=rf'\boxed{{{n}}}') for j, (d, n) in enumerate(zip((6, 6, 6, 6), (7, 6, 6, 6)))]


def usable(*methods): return _usable_by_all(Plan(RunConfig(methods=methods, teacher='expert', draft=dict(n=4), teach=dict(temperature=1.))), outvoted_first())


def test_all_that_the_teacher_said_is_counted_whatever_other_methods_leave_out():
    (pairs,), rolled = usable('dpo_voted', 'grpo_voted')
    assert [p['row_id'] for p in pairs.rows] == ['r1'] and {(r['row_id'], r['vote']) for r in rolled['grpo_voted']} == {('r1', '6')}


def test_a_pair_is_not_lost_as_the_first_answer_is_outvoted():
    "dsft_voted lacks that row; the pair may stand in any other of its problem"
    answers, pairs = usable('dsft_voted', 'dpo_voted')[0]
    assert [p['row_id'] for p in answers.rows] == [p['row_id'] for p in pairs.rows] == ['r1']


def test_nothing_to_vote_for_says_so(tiny_student, tmp_path):
    tie = [dict(r, direct=rf'\boxed{{{r["sample"]}}}') for r in ROWS]
    with pytest.raises(CgdError, match='grpo_voted: no row of 8 can be used.*views.min_agreement'): fit_rival('grpo_voted', tie, ROLLING, tiny_student, tmp_path/'out')


def test_the_vote_is_the_grader(tiny_student, tmp_path, monkeypatch):
    write_by(monkeypatch, by_turns)
    record = fit_rival('grpo_voted', ROWS, ROLLING, tiny_student, tmp_path/'voted')
    assert record['config']['rewards'] == dict(voted=1.) and record['rewards'] == [.5, .5]
