"""Soft targets on a tiny model: the loss is what whole logits give, the student as it was does not move and drops out, what it reads is counted, a killed training goes on, and runs have it by name"""
import json
from importlib import import_module

import pytest
import torch

import cgd.pipeline
from cgd.core import CgdError, read_table
from cgd.costs import training_flops
from cgd.evaluate import EvalConfig
from cgd.export import export
from cgd.methods import read_training
from cgd.models import model_shape
from cgd.pipeline import run
from cgd.plan import RunConfig, plan
from cgd.process import call_by_name
from cgd.recipe import TrainConfig
from cgd.soft import _CHUNK, _dropping, soft_trainer
from cgd.store import SampleConfig
from cgd.train import fit
from cgd.trainer import Watch, read_losses
from cgd.views import Pairs, build

CFG = TrainConfig(backend='trl', dtype='float32', lr=1e-3, epochs=1, batch_size=4, device_batch_size=4, schedule='constant', warmup_share=0, save_steps=2)
TRACES = [dict(row_id=f'r{i}', problem_id=f'p{i}', prompt=f'What is {i} + {i}?', draft=f'It must be {i}.', refinement=rf'{i} + {i} = {2*i}, so the answer is \boxed{{{2*i}}}.') for i in range(1, 13)]
PAIRS, OTHERS = build(TRACES[:8], 'soft'), build(TRACES[8:], 'soft')


def recipe(**changes): return CFG.model_copy(update=changes)


def held(out, student, cfg=CFG, pairs=PAIRS):
    "A training that is done: its record, and its trainer"
    kept = []
    def noted(*args, **parts):
        "noted"
        kept.append(soft_trainer(*args, **parts))
        return kept[0]
    return fit(pairs, cfg, student, out, trainer=noted), kept[0]


def loss_and_gradient(trainer, rows, **settings):
    "Of some rows as they are trained on, with other weights and dropouts than the trainer's"
    for name, value in settings.items(): setattr(trainer, name, value)
    trainer.model.zero_grad(); trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(trainer.data_collator([dict(r) for r in rows])))
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def by_hand(trainer, rows, share):
    "The loss from whole logits in float64, a row at a time, the prompt left out, with the adapter switched off for the student as it was"
    found, model = [], trainer.model.eval()
    def log_probs(ids):
        with torch.no_grad(): return model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    for ids, labels in ((r['input_ids'], r['labels']) for r in rows):
        q = log_probs(ids)
        with model.disable_adapter(): p = log_probs(ids)
        found += [-(1 - share)*q[i - 1, label] + share*(p[i - 1].exp()*(p - q)[i - 1]).sum() for i, label in enumerate(labels) if label != -100]
    return float(sum(found)/len(found))


@pytest.fixture(scope='module')
def adapted(tiny_student, tmp_path_factory):
    "Of an adapter, after some steps: the student and what it was differ"
    return held(tmp_path_factory.mktemp('adapted')/'soft', tiny_student)


@pytest.fixture(scope='module')
def learnt(tiny_student, tmp_path_factory):
    out = tmp_path_factory.mktemp('learnt')/'soft'
    return fit(PAIRS, CFG, tiny_student, out, validation=OTHERS), out


@pytest.mark.parametrize('batching', ['padding_free', 'padded'])
def test_the_loss_is_that_of_whole_logits(batching, adapted, tiny_student, tmp_path):
    "A mean over all tokens, or the distance the other way round, would be another number; pieces of the targets make no difference"
    trainer = adapted[1] if batching == 'padding_free' else held(tmp_path/'out', tiny_student, recipe(batching=batching))[1]
    rows = [trainer.train_dataset[i] for i in range(4)]
    assert sum(label != -100 for r in rows for label in r['labels']) % _CHUNK and trainer.train_dataset.num_rows == 8
    for share in (0., .6, 1.):
        expected = by_hand(trainer, rows, share)
        assert loss_and_gradient(trainer, rows, soft_weight=share, soft_dropout=0.)[0] == pytest.approx(expected, rel=1e-5) and expected > .1


def test_without_weight_it_is_fine_tuning(tiny_student, tmp_path):
    "Loss by loss, and in what it makes"
    plain = fit(build(TRACES[:8], 'dsft_refined'), CFG, tiny_student, tmp_path/'plain')
    soft = fit(PAIRS, recipe(soft_weight=0.), tiny_student, tmp_path/'soft')
    assert [r['loss'] for r in read_losses(tmp_path/'soft')] == pytest.approx([r['loss'] for r in read_losses(tmp_path/'plain')], rel=1e-6)
    assert soft['tokens'] == 2*plain['tokens'] and soft['target_tokens'] == plain['target_tokens'] and 'teacher_tokens' not in plain
    assert 'soft_weight' in soft['config'] and 'soft_weight' not in plain['config']


def test_alone_it_asks_for_no_change(tiny_student, tmp_path):
    "Before the first step, without dropout and without the pairs' own words, nothing is to be learnt"
    class Stop(Exception): pass
    kept = []
    def stopped(*args, **parts):
        kept.append(soft_trainer(*args, **parts))
        kept[0].train = lambda **how: (_ for _ in ()).throw(Stop())
        return kept[0]
    with pytest.raises(Stop): fit(PAIRS, CFG, tiny_student, tmp_path/'out', trainer=stopped)
    rows = [kept[0].train_dataset[i] for i in range(4)]
    (nothing, still), (much, moved) = (loss_and_gradient(kept[0], rows, soft_weight=w, soft_dropout=0.) for w in (1., 0.))
    assert abs(nothing) < 1e-6 < much and still.norm() < 1e-5*moved.norm()
    assert loss_and_gradient(kept[0], rows, soft_weight=1., soft_dropout=.15)[0] > .01   # the dropout is what it learns from then


def read_twice(trainer, rows, rate):
    "Whether the student as it was makes the same of a batch twice"
    trainer.soft_dropout = rate
    batch = dict(trainer.data_collator([dict(r) for r in rows]))
    first, second = (trainer.read_before(batch)[0] for _ in range(2))
    return torch.equal(first, second)


def test_the_student_as_it_was_drops_out_and_the_student_does_not(adapted):
    _, trainer = adapted
    rows = [trainer.train_dataset[i] for i in range(4)]
    assert read_twice(trainer, rows, 0.) and not read_twice(trainer, rows, .15)
    layers = [m for m in trainer.model.modules() if hasattr(m, 'attention_dropout')]
    assert len(layers) == 2 and {m.attention_dropout for m in layers} == {0.}   # put back
    with _dropping(trainer.model, .15): assert {m.attention_dropout for m in layers} == {.15}
    assert loss_and_gradient(trainer, rows, soft_weight=0., soft_dropout=.15)[0] == loss_and_gradient(trainer, rows, soft_weight=0., soft_dropout=.15)[0]


def test_a_model_without_dropout_is_refused():
    bare = torch.nn.ModuleDict(dict(lora_dropout=torch.nn.Dropout(.1), head=torch.nn.Linear(2, 2)))
    bare.config = type('Config', (), dict(model_type='bare'))
    with pytest.raises(CgdError, match='soft_dropout=0.15: bare has no dropout'):
        with _dropping(bare, .15): pass
    with _dropping(bare, 0.): assert bare['lora_dropout'].p == .1


def test_with_all_weights_a_copy_stays_as_it_was(tiny_student, tmp_path):
    from safetensors.torch import load_file
    record, trainer = held(tmp_path/'out', tiny_student, recipe(tuning='full'))
    theirs, now, then = trainer.before.state_dict(), load_file(tmp_path/'out'/'model.safetensors'), load_file(f'{tiny_student}/model.safetensors')
    assert all(torch.equal(theirs[k], v) for k, v in then.items()) and not any(torch.equal(now[k], v) for k, v in then.items() if v.dim() > 1)
    rows = [trainer.train_dataset[i] for i in range(4)]
    assert read_twice(trainer, rows, 0.) and not read_twice(trainer, rows, .15)
    assert all(p.grad is None for p in trainer.before.parameters()) and record['tokens'] == 2*record['teacher_tokens']


def test_the_adapter_is_not_in_what_it_was(adapted, tiny_student):
    "What the student as it was makes of a batch is what the untrained folder does, however far the student has gone"
    from transformers import AutoModelForCausalLM
    _, trainer = adapted
    row, trainer.soft_dropout = trainer.train_dataset[0], 0.
    read = trainer.read_before(dict(trainer.data_collator([dict(row)])))[0]
    ids, at = torch.tensor([row['input_ids']]), [i - 1 for i, label in enumerate(row['labels']) if label != -100]
    def hidden(model):
        with torch.no_grad(): return model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, at]
    assert torch.allclose(read, hidden(AutoModelForCausalLM.from_pretrained(tiny_student, dtype=torch.float32)), atol=1e-4)
    assert not torch.allclose(read, hidden(trainer.model.eval()), atol=1e-2)


def test_what_is_looked_at_is_the_usual_loss(learnt, tiny_student, tmp_path):
    "Of the validation set, so that methods can be compared; and no dropout makes it another number the next time"
    record, out = learnt
    look = read_losses(out, validation=True)[-1]
    plain = fit(build(TRACES[:8], 'dsft_refined'), recipe(lr=1e-9), tiny_student, tmp_path/'plain', validation=build(TRACES[8:], 'dsft_refined'))
    soft = fit(PAIRS, recipe(lr=1e-9), tiny_student, tmp_path/'soft', validation=OTHERS)
    assert soft['validation']['loss'] == pytest.approx(plain['validation']['loss'], rel=1e-4) and soft['last_loss'] < .9*plain['last_loss']
    assert look['loss'] == record['validation']['loss']
    assert 'soft targets' in (out/'README.md').read_text() and '| soft_weight | 0.6 |' in (out/'README.md').read_text() and 'soft_weight' not in (tmp_path/'plain'/'README.md').read_text()


def test_stopped_and_gone_on_from(learnt, tiny_student, tmp_path, monkeypatch):
    "The dropout, too, goes on where it was"
    cfg = recipe(epochs=2)
    whole = fit(PAIRS, cfg, tiny_student, tmp_path/'whole')
    def stop(self, args, state, control, **kw):
        if state.global_step == 3: raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(Watch, 'on_step_end', stop)
        with pytest.raises(KeyboardInterrupt): fit(PAIRS, cfg, tiny_student, tmp_path/'out')
    assert (tmp_path/'out.checkpoints'/'checkpoint-2').exists() and not (tmp_path/'out').exists()
    record = fit(PAIRS, cfg, tiny_student, tmp_path/'out')
    ours, same = ([{k: v for k, v in r.items() if k != 'seconds'} for r in read_losses(tmp_path/f)] for f in ('out', 'whole'))
    assert ours == same and len(ours) == 4 and (record['tokens'], record['teacher_tokens']) == (whole['tokens'], whole['teacher_tokens'])
    assert (tmp_path/'out'/'adapter_model.safetensors').read_bytes() == (tmp_path/'whole'/'adapter_model.safetensors').read_bytes()


def test_operations_are_those_that_torch_counts(tiny_student, tmp_path):
    "All weights, one row. The formula takes the head for prompts, too, which the trainer does not; it makes both logits in pieces, and once more for the way back"
    from torch.utils.flop_counter import FlopCounterMode
    cfg = recipe(tuning='full', epochs=2, batch_size=1, device_batch_size=1, batching='padded')
    with FlopCounterMode(display=False) as counter: record = fit(Pairs('soft', PAIRS.rows[:1]), cfg, tiny_student, tmp_path/'out')
    shape = model_shape(tiny_student)
    parts, head, prompts = training_flops(record, shape), 2*shape.vocab*shape.hidden, record['teacher_tokens'] - record['target_tokens']
    forwards = 3 + 1   # forward and backward, and the student as it was
    assert parts['reference'] == parts['forward'] and counter.get_total_flops() == pytest.approx(parts['total'] - forwards*head*prompts + 2*head*record['target_tokens'], rel=.05)


def test_what_it_does_not_go_with(tiny_student, tmp_path):
    for name in ('soft+cgd', 'soft-to-cgd'):
        with pytest.raises(CgdError, match='cannot be mixed; it can follow another: cgd-then-soft'): read_training(name)
    few = dict(n_problems=4, benchmarks=('test:2',), methods=('soft',))
    for cfg, why in ((TrainConfig(backend='unsloth'), 'train: backend=unsloth: it has no such loss'), (TrainConfig(processes=2, parallel='fsdp2'), 'train: parallel=fsdp2')):
        with pytest.raises(CgdError, match=why): plan(RunConfig(train=cfg, **few))
    for wrong in (dict(soft_weight=1.5), dict(soft_dropout=1.)):
        with pytest.raises(CgdError, match=next(iter(wrong))): TrainConfig.make(wrong)
    assert read_training('cgd-then-soft').label == 'CGD, then soft targets' and read_training('soft').tied and not read_training('dpo').tied and not read_training('cgd-then-grpo').tied


@pytest.fixture(scope='module')
def finished(tiny_student, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    cfg = RunConfig(name='soft', folder=str(folder), student=tiny_student, student_engine='hf', adapters='serve', n_problems=8, methods=('dsft_refined', 'soft', 'dsft_refined-then-soft'), decontaminate=False,
                    benchmarks=('test:2',), draft=SampleConfig(max_new_tokens=8), eval=EvalConfig(max_new_tokens=8), train=recipe(batch_size=8, device_batch_size=8, save_steps=100))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(cgd.pipeline, 'train', lambda *args, **more: fit(*args, **more))
        m.setattr(import_module('cgd.train'), 'launch', lambda target, *args, env: call_by_name(target, *args))
        yield cfg, run(cfg)


def test_a_run_with_soft_targets(finished):
    "The same pairs as those of plain fine-tuning, and not taken for the same method; what was read twice is paid twice"
    cfg, said = finished
    assert all(f' {m} ' in said for m in ('base', *cfg.methods))
    made = {f.parent.name: json.loads(f.read_text()) for f in cfg.path('models').glob('*/train.json')}
    assert made.keys() == {*cfg.methods} and made['dsft_refined-then-soft']['base'] == 'dsft_refined-merged' and made['soft']['made_by'] == 'cgd.soft:soft_trainer'
    ledger = {r['method']: r for r in read_table(cfg.path('ledger.csv')) if r['stage'] == 'train'}
    read = {m: int(r['prompt_tokens']) + int(r['completion_tokens']) for m, r in ledger.items()}
    assert read['soft'] == read['dsft_refined-then-soft'] == 2*read['dsft_refined'] and 1.2 < float(ledger['soft']['flops'])/float(ledger['dsft_refined']['flops']) < 1.6
    first = {m: read_losses(cfg.path('models', m))[0]['loss'] for m in cfg.methods}
    assert first['soft'] < .8*first['dsft_refined']   # .4 of it, and the distance that dropout makes


def test_its_pairs_do_not_leave_without_their_loss(finished):
    with pytest.raises(CgdError, match='soft: learns from soft targets'): export(finished[0].path(), 'trl', 'soft', out=finished[0].path('out'))
