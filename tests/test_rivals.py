"GRPO and self-distillation on a tiny model: paid by the grader, as a second stage too, stopped and gone on from, and counted"
import json

import pytest

import cgd.rivals
from cgd.core import CgdError
from cgd.rivals import RLConfig, fit_rival, train_rival
from cgd.train import TrainConfig, fit, merge, read_losses
from cgd.views import Pairs, make_pair
from test_train import tiny_student

CFG = RLConfig(steps=4, prompts=2, n=2, device_batch_size=2, max_new_tokens=12, lr=1e-3, save_steps=2, dtype='float32')
TRACES = [dict(problem_id=f'p{i}', prompt=f'What is {i} + {i}?', reference=str(2*i), draft=f'It is {i}.', critique=f'That is {i} alone; add it twice.') for i in range(1, 4)]


@pytest.fixture(scope='module')
def student(tmp_path_factory): return tiny_student(tmp_path_factory.mktemp('tiny'))


@pytest.fixture(scope='module')
def tuned(student, tmp_path_factory):
    "First stage: a student that CGD has taught to answer 2, whatever the question, most of the time"
    pairs = Pairs('cgd', [make_pair('cgd', dict(problem=t['prompt'], draft=t['draft'], critique=t['critique']), r'It is \boxed{2}.', t['problem_id']) for t in TRACES])
    folder = tmp_path_factory.mktemp('first')/'cgd'
    fit(pairs, TrainConfig(backend='trl', method='full', lr=5e-3, epochs=40, batch_size=3, dtype='float32', save_steps=1000, schedule='constant'), student, folder)
    return folder


@pytest.fixture
def graded(monkeypatch):
    "What the grader was asked and what it said, while it works as ever"
    seen, grade_many = [], cgd.rivals.grade_many

    def look(pairs, grader):
        seen.append((list(pairs), [g.outcome for g in grade_many(pairs, grader)]))
        return grade_many(pairs, grader)
    monkeypatch.setattr(cgd.rivals, 'grade_many', look)
    return seen


def test_cgd_then_grpo_is_paid_by_the_grader(student, tuned, graded, tmp_path):
    whole = merge(student, tuned, tmp_path/'merged')
    assert whole == str(tuned)   # all weights were trained, so there is nothing to merge
    record = fit_rival('grpo', TRACES, CFG, whole, tmp_path/'grpo')
    assert record['steps'] == 4 == len(graded) and record['pairs'] == 16 and record['problems'] == 3
    assert record['rewards'] == pytest.approx([outcomes.count('right')/4 for _, outcomes in graded])
    for pairs, outcomes in graded:
        for (reference, text), outcome in zip(pairs, outcomes): assert (outcome == 'right') == (reference == '2' and r'\boxed{2}' in text)
    assert 0 < sum(record['rewards']) < 4   # it says 2, which is right for one of three
    assert record['base_fingerprint'] != fit_rival('grpo', TRACES, CFG.model_copy(update=dict(steps=1)), student, tmp_path/'one')['base_fingerprint']


@pytest.mark.parametrize('name', ['grpo', 'sdft'])
def test_stopped_and_gone_on_from(name, tuned, tmp_path, monkeypatch):
    cfg = CFG.model_copy(update=dict(n=4, temperature=3.))   # so that completions of a problem differ
    whole = fit_rival(name, TRACES, cfg, str(tuned), tmp_path/'whole')

    def stop(self, args, state, control, **kw):
        if state.global_step == 3: raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(cgd.rivals._Rollouts, 'on_step_end', stop)
        with pytest.raises(KeyboardInterrupt): fit_rival(name, TRACES, cfg, str(tuned), tmp_path/'out')
    assert (tmp_path/'out.checkpoints'/'checkpoint-2').exists() and not (tmp_path/'out').exists()
    record = fit_rival(name, TRACES, cfg, str(tuned), tmp_path/'out')
    ours, same = ([{k: v for k, v in r.items() if k != 'seconds'} for r in read_losses(tmp_path/f)] for f in ('out', 'whole'))
    assert ours == same and len(ours) == 4 and record['rewards'] == whole['rewards']
    assert record['tokens'] == whole['tokens'] and (name == 'grpo' or all(r['loss'] > 0 for r in ours))   # GRPO's loss is a sum of advantages: 0 where completions are equally long
    assert not (tmp_path/'out.checkpoints').exists()
    assert fit_rival(name, TRACES, cfg, str(tuned), tmp_path/'out') == record   # a second time there is nothing to do


def test_sdft_in_a_process_of_its_own_and_its_cost(student, tmp_path):
    record = train_rival('sdft', TRACES, CFG.model_copy(update=dict(steps=2, method='full', lr=1e-4)), student, tmp_path/'models'/'sdft', progress=False)
    from transformers import AutoModelForCausalLM
    assert AutoModelForCausalLM.from_pretrained(tmp_path/'models'/'sdft').config.architectures == ['LlamaForCausalLM']
    assert record['pairs'] == 8 and record['seconds'] > 0
    assert 0 < record['target_tokens'] <= 8*12 and record['tokens'] > record['target_tokens']


def test_distance_to_the_start_saves_one_adapter(tuned, tmp_path):
    fit_rival('grpo', TRACES, CFG.model_copy(update=dict(steps=1, beta=.1)), str(tuned), tmp_path/'out')
    assert [f.name for f in tmp_path.glob('out/**/*.safetensors')] == ['adapter_model.safetensors'] and json.loads((tmp_path/'out'/'adapter_config.json').read_text())['base_model_name_or_path'] is None


def test_rows_that_cannot_be_used(student, tmp_path):
    with pytest.raises(CgdError, match='p1 has no reference'): fit_rival('grpo', [TRACES[0] | dict(reference=None)], CFG, student, tmp_path/'out')
    with pytest.raises(CgdError, match='no room for 2000 tokens in 2048'): fit_rival('grpo', TRACES, CFG.model_copy(update=dict(max_new_tokens=2000)), student, tmp_path/'out')
    with pytest.raises(CgdError, match='a marker of the chat template'): fit_rival('sdft', [TRACES[0] | dict(critique='Right.<|im_end|>')], CFG, student, tmp_path/'out')
