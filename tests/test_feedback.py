"Self-distillation from feedback on a tiny model: without a context the teacher is the student, and with one it is not; what teachers read, to the token; by name, as a second stage, stopped and gone on from"
import json
from importlib import import_module

import pandas as pd
import pytest

import cgd.pipeline
import cgd.rivals
from cgd.core import CgdError
from cgd.evaluate import EvalConfig
from cgd.methods import CONTEXTS, METHODS, ViewConfig, change_rows, set_context
from cgd.pipeline import run
from cgd.plan import RunConfig
from cgd.process import call_by_name
from cgd.recipe import TrainConfig
from cgd.rivals import RLConfig, _draw, _heeded, _rival_trainer, check_rival, fit_rival
from cgd.store import SampleConfig
from cgd.train import fit
from cgd.trainer import read_losses

CFG = RLConfig(steps=3, prompts=2, n=2, device_batch_size=2, max_new_tokens=8, lr=1e-2, save_steps=1, dtype='float32')
TRACES = [dict(problem_id=f'p{i}', row_id=f'p{i}/0', prompt=f'What is {i} + {i}?', reference=str(2*i), draft=f'It is {2*i}.', critique=f'Is {i} + {i} really {2*i}? Yes.') for i in range(11, 15)]
TEACHERS = 'sdft', 'sdpo'


@pytest.fixture(autouse=True)
def by_transformers(monkeypatch):
    "vLLM's part is tested in test_rivals.py"
    monkeypatch.setattr(cgd.rivals, 'vllm_fault', lambda: 'not here')


def paid(monkeypatch, pays):
    "Rewards in this order, one a completion, over and over"
    at = iter(range(10**6))
    monkeypatch.setitem(cgd.rivals.REWARDS, 'right', cgd.rivals.Reward('as told', lambda texts, *_: [pays[next(at) % len(pays)] for _ in texts], ('reference',)))


def first_batch(name, student, tmp_path, **changes):
    "A trainer, the first batch as it would learn from it, and the rows of it"
    cfg = CFG.model_copy(update=dict(device_batch_size=4) | changes)
    method = set_context(METHODS[name], cfg.context)
    check_rival(method, cfg, student)
    cfg = _heeded(method, cfg)
    tokenizer, drawn, _ = _draw(method, change_rows(method, TRACES, ViewConfig(seed=cfg.seed)), cfg, student, 'auto')
    trainer = _rival_trainer(method, tokenizer, drawn, cfg, student, tmp_path/'checkpoints', '', None, 0)
    trainer.model.train()
    return trainer, trainer._prepare_inputs(next(iter(trainer.get_train_dataloader()))), drawn


def loss_and_gradient(trainer, batch):
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), max(p.grad.abs().max().item() for p in trainer.model.parameters() if p.grad is not None)


def read(trainer, batch, i=0):
    "What a teacher reads before the completion"
    prompt = slice(batch['teacher_input_ids'].size(1) - batch['completion_ids'].size(1))
    ids, seen = batch['teacher_input_ids'][i, prompt], batch['teacher_attention_mask'][i, prompt].bool()
    return trainer.processing_class.decode(ids[seen])


def sent(trainer, batch, i=0): return trainer.processing_class.decode(batch['prompt_ids'][i][batch['prompt_mask'][i].bool()])


@pytest.mark.parametrize('name', TEACHERS)
def test_without_a_context_the_teacher_is_the_student(name, tiny_student, tmp_path):
    trainer, batch, _ = first_batch(name, tiny_student, tmp_path, context='none', own_tries=False)
    assert all(read(trainer, batch, i) == sent(trainer, batch, i) for i in range(4))
    batch.pop('self_distillation_mask', None)   # SDPO would not even look
    loss, gradient = loss_and_gradient(trainer, batch)
    assert abs(loss) < 1e-6 and gradient < 1e-6


@pytest.mark.parametrize('name', TEACHERS)
def test_with_a_critique_it_is_not(name, tiny_student, tmp_path):
    trainer, batch, drawn = first_batch(name, tiny_student, tmp_path, own_tries=False)
    for i in range(4):
        row = drawn[i//2]
        assert f'<draft>\n{TRACES[int(row["problem_id"][1:]) - 11]["draft"]}\n</draft>\n\n<critique>' in read(trainer, batch, i) and 'unsuccessful' not in read(trainer, batch, i)
    loss, gradient = loss_and_gradient(trainer, batch)
    assert loss > 1e-3 and gradient > 1e-4


@pytest.mark.parametrize('name', TEACHERS)
def test_each_context_is_another_target(name, tiny_student, tmp_path):
    "The same completions, since the student and its seed are the same: only what is learnt of them differs"
    losses, texts, written = {}, {}, []
    for context in CONTEXTS:
        trainer, batch, drawn = first_batch(name, tiny_student, tmp_path/context, context=context, own_tries=False)
        texts[context], losses[context] = read(trainer, batch), loss_and_gradient(trainer, batch)[0]
        written.append(batch['completion_ids'].tolist())
    assert all(w == written[0] for w in written) and len({round(x, 7) for x in losses.values()}) == len(CONTEXTS)
    own = next(t for t in TRACES if t['problem_id'] == drawn[0]['problem_id'])
    assert {c for c, text in texts.items() if own['critique'] in text} == {'critique'} and {c for c, text in texts.items() if '<draft>' in text} == {*CONTEXTS} - {'none'}
    assert {c for c, text in texts.items() if own['reference'] in text.replace(own['prompt'], '')} == {'critique', 'shuffled', 'draft'}   # the answer, in the draft; masked hides it
    assert sum(t['critique'] in texts['shuffled'] for t in TRACES) == 1


def test_sdpo_shows_another_right_answer_before_the_critique(tiny_student, tmp_path, monkeypatch):
    "Of two groups of two: in the first the second answer is right, in the second none is"
    paid(monkeypatch, [0., 1., 0., 0.])
    trainer, batch, _ = first_batch('sdpo', tiny_student, tmp_path)
    texts, answer = [read(trainer, batch, i) for i in range(4)], trainer.processing_class.decode(batch['completion_ids'][1], skip_special_tokens=True).strip()
    assert answer and answer in texts[0] and '<critique>' not in texts[0]
    assert all('<critique>' in text and 'Correct solution' not in text for text in texts[1:])   # its own right answer is not shown to it
    assert trainer._metrics['train']['self_distillation/reward_mean'] == [.25]


def test_a_right_answer_is_one_that_is_paid_in_full(tiny_student, tmp_path, monkeypatch):
    "Whatever a reward weighs, and although TRL adds up weights in half the digits"
    for weight in (.1, 1., 3.3):
        paid(monkeypatch, [0., 1.])
        trainer, batch, _ = first_batch('sdpo', tiny_student, tmp_path/str(weight), rewards=dict(right=weight))
        assert 'Correct solution' in read(trainer, batch, 0) and 'Correct solution' not in read(trainer, batch, 1)


def test_sd_zero_reads_the_answer_the_word_and_the_answer_again(tiny_student, tmp_path, monkeypatch):
    "An answer that ends early does not end the turn before the word on it"
    paid(monkeypatch, [0., 1.])
    trainer, _, _ = first_batch('sd_zero', tiny_student, tmp_path)
    generate, end = trainer.model.generate, trainer.eos_token_ids[0]

    def ending(**asked):
        ids = generate(**asked)
        ids[0, asked['input_ids'].size(1) + 3:] = end
        return ids
    monkeypatch.setattr(trainer.model, 'generate', ending)
    trainer._buffered_inputs = None
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    for i in range(4):
        ids = batch['completion_ids'][i][batch['completion_mask'][i].bool()].tolist()
        own = trainer.processing_class.decode([t for t in ids if t not in trainer.eos_token_ids])
        before, again = read(trainer, batch, i), sent(trainer, batch, i) + own
        assert before.startswith(again) and ('That is right' if i % 2 else 'That is not right') in before[len(again):]
        assert batch['teacher_input_ids'][i][batch['teacher_attention_mask'][i].bool()][-len(ids):].tolist() == ids
    assert batch['completion_mask'][0].sum() == 4 and end not in trainer.processing_class(read(trainer, batch)[len(sent(trainer, batch)):])['input_ids']
    batch.pop('old_per_token_logps', None)
    loss, gradient = loss_and_gradient(trainer, batch)
    assert loss > 1e-3 and gradient > 1e-4


@pytest.mark.parametrize('name', [*TEACHERS, 'sd_zero'])
def test_what_teachers_read_is_counted(name, tiny_student, tmp_path, monkeypatch):
    "Random weights end no text: every answer has all its tokens"
    seen, forward = [], {}
    cfg = CFG.model_copy(update=dict(steps=1, device_batch_size=4))
    make = cgd.rivals._rival_trainer

    def watched(*args):
        trainer = make(*args)
        forward['it'] = trainer._forward_logits

        def count(model, input_ids, attention_mask, logits_to_keep):
            seen.append(int(attention_mask.sum()))
            return forward['it'](model, input_ids, attention_mask, logits_to_keep)
        trainer._forward_logits = count
        return trainer
    monkeypatch.setattr(cgd.rivals, '_rival_trainer', watched)
    record = fit_rival(name, TRACES, cfg, tiny_student, tmp_path/'out')
    ours, theirs = seen
    assert (record['tokens'] - record['teacher_tokens'], record['teacher_tokens'], record['target_tokens']) == (ours, theirs, 4*8) and theirs > ours + 4*8


def kl(student, teacher):
    "In nats, over the tokens of all answers"
    return (student.exp()*(student - teacher)).sum(-1).mean().item()


def twenty_likeliest(student, teacher):
    "The student's likeliest tokens, and a bucket for the others"
    import torch
    at = student.topk(20).indices
    some = [x.gather(-1, at) for x in (student, teacher)]
    return [torch.cat([x, (-x.exp().sum(-1, keepdim=True)).log1p()], -1) for x in some]


@pytest.mark.parametrize('name, stays, cut', [('sdft', True, None), ('sd_zero', True, lambda *both: both), ('sdpo', False, twenty_likeliest)])
def test_who_the_teacher_is_and_what_is_learnt_of_it(name, stays, cut, tiny_student, tmp_path, monkeypatch):
    "The student's weights are moved: the teacher of sdft and sd_zero is what it began as. Traps: another teacher; TRL's default, the sampled tokens alone; the other direction"
    import torch
    trainer, batch, _ = first_batch(name, tiny_student, tmp_path, own_tries=False)
    batch.pop('old_per_token_logps', None)
    forward, seen = trainer._forward_logits, []

    def look(*args, **named):
        seen.append(forward(*args, **named))
        return seen[-1]
    monkeypatch.setattr(trainer, '_forward_logits', look)
    loss_and_gradient(trainer, batch)
    for part, w in trainer.model.named_parameters():
        if 'lora_B' in part: torch.nn.init.normal_(w, std=.05, generator=torch.Generator().manual_seed(0))
    loss, _ = loss_and_gradient(trainer, batch)
    before, theirs_before, ours, theirs = (x.detach().log_softmax(-1) for x in seen)
    assert (ours - before).abs().max() > .1 and ((theirs - theirs_before).abs().max() < 1e-4) == stays
    assert batch['completion_mask'].all()   # random weights end no text
    if cut: assert loss == pytest.approx(kl(*cut(ours, theirs)), rel=1e-3) and loss != pytest.approx(kl(*cut(theirs, ours)), rel=1e-2)


def test_an_update_without_a_context_taught_nothing(tiny_student, tmp_path):
    record = fit_rival('sdpo', TRACES, CFG.model_copy(update=dict(context='none')), tiny_student, tmp_path/'out')   # no answer of random weights is right
    assert record['idle_steps'] == record['steps'] == 3 and all(r['loss'] == 0 for r in read_losses(tmp_path/'out'))
    assert '0 of 3 updates taught it something; in the other 3 its teacher saw no more than it did' in (tmp_path/'out'/'README.md').read_text()


@pytest.mark.parametrize('name', ['sdpo', 'sd_zero'])
@pytest.mark.parametrize('tuning', ['lora', 'full'])
def test_stopped_and_gone_on_from(name, tuning, tiny_student, tmp_path, monkeypatch, long):
    if (name, tuning) == ('sd_zero', 'full') and not long: pytest.skip('as sdft: --long')
    cfg = CFG.model_copy(update=dict(tuning=tuning))
    whole = fit_rival(name, TRACES, cfg, tiny_student, tmp_path/'whole')

    def stop(self, args, state, control, **kw):
        if state.global_step == 2: raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(cgd.rivals._Rollouts, 'on_step_end', stop)
        with pytest.raises(KeyboardInterrupt): fit_rival(name, TRACES, cfg, tiny_student, tmp_path/'out')
    assert (tmp_path/'out.checkpoints'/'checkpoint-1').exists() and not (tmp_path/'out').exists()
    record = fit_rival(name, TRACES, cfg, tiny_student, tmp_path/'out')
    ours, same = ([{k: v for k, v in r.items() if k != 'seconds'} for r in read_losses(tmp_path/f)] for f in ('out', 'whole'))
    assert ours == same and len(ours) == 3 and all(r['loss'] != 0 for r in ours)
    assert (record['tokens'], record['teacher_tokens']) == (whole['tokens'], whole['teacher_tokens'])
    assert len(list(tmp_path.glob('out/**/*.safetensors'))) == 1 and fit_rival(name, TRACES, cfg, tiny_student, tmp_path/'out') == record


def test_what_cannot_work_is_said(tiny_student, tmp_path):
    with pytest.raises(CgdError, match='set own_tries=false'): check_rival('sdpo', CFG.model_copy(update=dict(context='masked')), tiny_student)
    check_rival('sdft', CFG.model_copy(update=dict(context='masked')), tiny_student)
    with pytest.raises(CgdError, match='critiques of other problems: one problem has 1 of 1'): fit_rival('sdft', TRACES[:1], CFG.model_copy(update=dict(context='shuffled')), tiny_student, tmp_path/'out')
    with pytest.raises(CgdError, match='p11 has no reference'): fit_rival('sdft', [TRACES[0] | dict(reference=None)], CFG.model_copy(update=dict(context='masked')), tiny_student, tmp_path/'out')
    with pytest.raises(CgdError, match='no room for 2032 tokens in 2048'): fit_rival('sd_zero', TRACES, CFG.model_copy(update=dict(max_new_tokens=1000)), tiny_student, tmp_path/'out')
    assert not (tmp_path/'out').exists()


def test_a_run_by_name_and_as_a_second_stage(tiny_student, tmp_path, monkeypatch):
    cfg = RunConfig(name='feedback', folder=str(tmp_path), student=tiny_student, student_engine='hf', adapters='serve', n_problems=4, methods=('sdpo', 'cgd-then-sd_zero'), benchmarks=('test:2',),
                    draft=SampleConfig(max_new_tokens=8), eval=EvalConfig(max_new_tokens=8), train=TrainConfig(backend='trl', epochs=1, batch_size=8, device_batch_size=8),
                    rl=RLConfig(steps=1, prompts=2, n=2, device_batch_size=4, max_new_tokens=8, dtype='float32', context='draft'))
    monkeypatch.setattr(cgd.pipeline, 'train', lambda *args, **more: fit(*args, **more))
    monkeypatch.setattr(cgd.pipeline, 'train_rival', fit_rival)
    monkeypatch.setattr(import_module('cgd.train'), 'launch', lambda target, *args, env: call_by_name(target, *args))
    said = run(cfg)
    assert all(f' {m} ' in said for m in cfg.methods) and 'sdpo, cgd-then-sd_zero: 1 updates of 2 problems with 2 completions each' in said
    made = {f.parent.name: json.loads(f.read_text()) for f in cfg.path('models').glob('*/train.json')}
    assert made['cgd-then-sd_zero']['base'] == 'cgd-merged' and made['sdpo']['config']['context'] == 'draft' and all(made[m]['teacher_tokens'] > 0 for m in cfg.methods)
    ledger = pd.read_csv(cfg.path('ledger.csv'), keep_default_na=False).set_index(['method', 'stage', 'who']).flops.astype(float)
    assert all(ledger[m, 'train', 'student'] > 0 for m in cfg.methods)
    costs = pd.read_csv(cfg.path('costs.csv')).set_index('method').flops
    assert costs['sdpo'] == pytest.approx(ledger['sdpo', 'train', 'student'] + ledger['', 'draft', 'student'], rel=1e-4)
