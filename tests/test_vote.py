"Labels by vote: a reward model trained on them pays in GRPO, and gold answers are nowhere"
import json

import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification
from safetensors.torch import load_file

from cgd.core import CgdError
from cgd.models import load_tokenizer, turn_ids
from cgd.recipe import PreferConfig
from cgd.rivals import RLConfig, train_rival
from cgd.train import fit
from cgd.views import build
from cgd.vote import _load_judge, pay_by_model

ROWS = [dict(row_id=f'r{i}{j}', problem_id=f'p{i}', prompt=f'What is {i} + {i}?', reference=None, sample=j, draft=f'It is {i}, that is clear.', draft_finish='stop',
             direct=rf'{i} + {i} = {2*i}, so \boxed{{{2*i}}}.' + ' Sure.'*j, direct_finish='stop', direct_grade=None) for i in range(1, 5) for j in range(2)]
SMALL = PreferConfig(epochs=1, batch_size=4, device_batch_size=4, dtype='float32', save_steps=1000)
ROLLING = RLConfig(steps=2, prompts=2, n=2, device_batch_size=4, max_new_tokens=8, dtype='float32', save_steps=1000)


@pytest.fixture(scope='module')
def judge(tiny_student, tmp_path_factory):
    folder = tmp_path_factory.mktemp('vote')/'judge'
    fit(build(ROWS, 'dpo_voted'), SMALL.model_copy(update=dict(tuning='full')), tiny_student, folder, trainer='cgd.preferences:reward_trainer')
    return folder


def test_a_reward_model_pays_what_its_head_says(judge):
    "The whole conversation is read, as it was in training; what was cut off gets nothing"
    rows = [dict(messages=[dict(role='user', content='What is 2 + 2?')], completion_finish=finish) for finish in ('stop', 'stop', 'length')]
    paid = pay_by_model(str(judge), ['It is 4.', 'It is 2.', 'It is 4.'], rows)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(judge).eval(), load_tokenizer(str(judge))
    ids = sum(turn_ids(tokenizer, rows[0]['messages'], 'It is 4.'), [])
    with torch.inference_mode(): assert paid[0] == pytest.approx(model(torch.tensor([ids])).logits.item(), abs=1e-5)
    assert paid[0] != paid[1] and paid[2] == 0


def test_an_adapter_comes_with_its_head(tiny_student, tmp_path):
    "A causal checkpoint has none, and a random one would pay as gladly; a base that is not known by name is asked for"
    folder = tmp_path/'adapter'
    fit(build(ROWS, 'dpo_voted'), SMALL, tiny_student, folder, trainer='cgd.preferences:reward_trainer')
    with pytest.raises(CgdError): pay_by_model(str(folder), [], [])
    record = json.loads((folder/'train.json').read_text())
    (folder/'train.json').write_text(json.dumps(record | dict(base=str(tiny_student))))
    head, = [w for name, w in load_file(folder/'adapter_model.safetensors').items() if name.endswith('score.weight')]
    kept, = [w for name, w in _load_judge(str(folder))[0].named_parameters() if 'score.modules_to_save' in name]
    assert torch.equal(kept, head)


def test_it_pays_in_grpo(judge, tiny_student, tmp_path):
    "Without a gold answer anywhere"
    cfg = ROLLING.model_copy(update=dict(rewards={f'model:{judge}': 1.}))
    record = train_rival('grpo_voted', ROWS, cfg, tiny_student, tmp_path/'paid', progress=False)
    assert record['steps'] == 2 and record['problems'] == 4 and record['config']['rewards'] == cfg.rewards
    assert 'reward' in pd.read_csv(tmp_path/'paid'/'losses.csv')


def test_the_vote_is_the_grader(tiny_student, tmp_path):
    record = train_rival('grpo_voted', ROWS, ROLLING, tiny_student, tmp_path/'voted', progress=False)
    assert record['config']['rewards'] == dict(voted=1.) and record['rewards'] == [0, 0]
