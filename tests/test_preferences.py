"Preferences on a tiny model: what is liked better becomes likelier against the student as it was, also on pairs that were not learnt; traps are noticed, a killed training goes on, and runs have it by name"
import json
import math
from importlib import import_module

import pytest

import cgd.batches
import cgd.pipeline
import cgd.preferences
from cgd.core import CgdError, read_table, write_table
from cgd.costs import training_flops
from cgd.estimate import _preferences
from cgd.evaluate import EvalConfig
from cgd.methods import ViewConfig, add_method, METHODS, Method, read_training
from cgd.models import model_shape
from cgd.pipeline import run
from cgd.plan import Plan, RunConfig, plan
from cgd.preferences import dpo_trainer, prefer_stage
from cgd.process import call_by_name
from cgd.recipe import PreferConfig, TrainConfig
from cgd.store import SampleConfig, Store
from cgd.teacher import open_teacher
from cgd.train import fit, train
from cgd.trainer import Watch, read_losses
from cgd.views import Pairs, build

CFG = PreferConfig(lr=3e-3, epochs=3, batch_size=4, device_batch_size=4, dtype='float32', schedule='constant', warmup_share=0, save_steps=2)
TRACES = [dict(row_id=f'r{i}', problem_id=f'p{i}', prompt=f'What is {i} + {i}?', reference=str(2*i), draft=f'It must be {i}, that is clear.', draft_finish='stop', draft_grade='wrong',
               refinement=rf'{i} + {i} = {2*i}, so the answer is \boxed{{{2*i}}}.', refinement_finish='stop', refinement_grade='right') for i in range(1, 17)]
PAIRS = build(TRACES, 'dpo')
LEARNT, OTHERS = Pairs('dpo', PAIRS.rows[:12]), Pairs('dpo', PAIRS.rows[12:])


def swap(rows): return [r | dict(completion=r['rejected'], rejected=r['completion']) for r in rows]


def held_out(folder): return read_losses(folder, validation=True)[-1]


@pytest.fixture(scope='module')
def learnt(tiny_student, tmp_path_factory):
    out = tmp_path_factory.mktemp('learnt')/'dpo'
    return fit(LEARNT, CFG, tiny_student, out, validation=OTHERS), out


def test_the_margin_rises_on_other_pairs_too_and_not_if_answers_are_permuted(learnt, tiny_student, tmp_path):
    record, out = learnt
    losses = read_losses(out)
    assert losses[0]['loss'] == pytest.approx(math.log(2), abs=1e-5) and losses[0]['margin'] == pytest.approx(0, abs=1e-4)
    assert losses[-1]['margin'] > 1 and losses[-1]['accuracy'] == 1
    assert held_out(out)['margin'] > 1 and held_out(out)['accuracy'] == 1 and record['validation']['pairs'] == 4
    mixed = Pairs('dpo', [swapped if i % 2 else r for i, (r, swapped) in enumerate(zip(LEARNT.rows, swap(LEARNT.rows)))])   # as often this way as that
    fit(mixed, CFG, tiny_student, tmp_path/'mixed', validation=OTHERS)
    assert held_out(tmp_path/'mixed')['margin'] < .2*held_out(out)['margin']


@pytest.mark.parametrize('tuning', ['lora', 'full'])
def test_both_answers_are_read_behind_one_prompt(tuning, tiny_student, tmp_path, monkeypatch):
    "On a CPU; what is learnt is what TRL teaches from two padded rows"
    cfg, readers, usual = CFG.model_copy(update=dict(epochs=1, tuning=tuning, lr=1e-3 if tuning == 'lora' else 1e-5)), [], cgd.batches._lay_out
    monkeypatch.setattr(cgd.batches, '_lay_out', lambda *given: readers.append((laid := usual(*given))['attention_mask'].max().item()) or laid)
    fit(LEARNT, cfg, tiny_student, tmp_path/'once')
    monkeypatch.setattr(cgd.preferences, 'attends_apart', lambda folder: False)
    before = len(readers)
    fit(LEARNT, cfg, tiny_student, tmp_path/'padded')
    assert {*readers} == {2} and len(readers) == before == len(LEARNT)   # what the student as it was says is computed before, padded
    once, padded = ([[r[k] for k in ('loss', 'margin')] for r in read_losses(tmp_path/name)] for name in ('once', 'padded'))
    for a, b in zip(once, padded, strict=True): assert a == pytest.approx(b, abs=1e-3)
    assert once != [once[0]]*len(once)


def moving_reference(cfg, arguments, folder, **parts):
    "The trap: what the student is measured against learns with it"
    trainer = dpo_trainer(cfg, arguments, folder, **parts)
    compute = trainer._compute_loss

    def against_itself(model, inputs, return_outputs):
        import torch
        training = trainer.model.training
        trainer.model.eval()
        with torch.no_grad(): inputs['ref_chosen_logps'], inputs['ref_rejected_logps'] = (model(input_ids=inputs['input_ids'], attention_mask=inputs['attention_mask'], use_cache=False,
            labels=inputs['input_ids'].masked_fill(inputs['completion_mask'] == 0, -100), fused_lm_head=True).log_probs.sum(1).chunk(2))
        trainer.model.train(training)
        return compute(model, inputs, return_outputs)
    trainer._compute_loss = against_itself
    return trainer


@pytest.mark.parametrize('trap', ['moving reference', 'swapped'])
def test_traps_are_noticed(trap, tiny_student, tmp_path):
    "With either put in, the property above does not hold"
    pairs = Pairs('dpo', swap(LEARNT.rows)) if trap == 'swapped' else LEARNT
    fit(pairs, CFG, tiny_student, tmp_path/'out', validation=OTHERS, trainer='' if trap == 'swapped' else moving_reference)
    assert held_out(tmp_path/'out')['margin'] < (0 if trap == 'swapped' else 1e-4)
    if trap != 'swapped': assert all(r['loss'] == pytest.approx(math.log(2), abs=1e-4) for r in read_losses(tmp_path/'out'))


def test_all_weights_without_a_second_copy(tiny_student, tmp_path):
    "Neither an adapter nor all weights need the student as it was beside it"
    held = []
    def noted(*args, **parts):
        "answers compared (DPO)"
        held.append(dpo_trainer(*args, **parts))
        return held[-1]
    fit(LEARNT, CFG.model_copy(update=dict(epochs=1)), tiny_student, tmp_path/'adapter', trainer=noted)
    record = fit(LEARNT, CFG.model_copy(update=dict(tuning='full', lr=1e-3, epochs=1)), tiny_student, tmp_path/'out', trainer=noted)
    assert [t.ref_model for t in held] == [None, None]
    weights = model_shape(tiny_student).counts()
    assert sum(p.numel() for p in held[1].model.parameters()) <= 1.1*sum(weights)
    assert read_losses(tmp_path/'out')[0]['loss'] == pytest.approx(math.log(2), abs=1e-5) and read_losses(tmp_path/'out')[-1]['margin'] > .1
    assert (tmp_path/'out'/'model.safetensors').exists() and record['taught'].endswith('(DPO)')


def test_stopped_and_gone_on_from(learnt, tiny_student, tmp_path, monkeypatch):
    def stop(self, args, state, control, **kw):
        if state.global_step == 5: raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(Watch, 'on_step_end', stop)
        with pytest.raises(KeyboardInterrupt): fit(LEARNT, CFG, tiny_student, tmp_path/'out', validation=OTHERS)
    assert (tmp_path/'out.checkpoints'/'checkpoint-4').exists() and not (tmp_path/'out').exists()
    record = fit(LEARNT, CFG, tiny_student, tmp_path/'out', validation=OTHERS)
    ours, same = ([{k: v for k, v in r.items() if k != 'seconds'} for r in read_losses(f)] for f in (tmp_path/'out', learnt[1]))
    assert ours == same and len(ours) == 9 and record['tokens'] == learnt[0]['tokens']
    assert (tmp_path/'out'/'adapter_model.safetensors').read_bytes() == (learnt[1]/'adapter_model.safetensors').read_bytes()
    assert fit(LEARNT, CFG, tiny_student, tmp_path/'out', validation=OTHERS) == record   # a second time there is nothing to do


def test_operations_are_those_that_torch_counts(tiny_student, tmp_path):
    "All weights, answers of one length: no padding. The formula takes the head for prompts, too, which the trainer does not"
    from torch.utils.flop_counter import FlopCounterMode
    one = Pairs('dpo', [LEARNT.rows[0] | dict(rejected=[dict(role='assistant', content=r'2 + 2 = 5, so the answer is \boxed{3}.')], completion=[dict(role='assistant', content=r'1 + 1 = 2, so the answer is \boxed{2}.')])])
    with FlopCounterMode(display=False) as counter: record = fit(one, CFG.model_copy(update=dict(tuning='full', epochs=2, batch_size=1, device_batch_size=1)), tiny_student, tmp_path/'out')
    shape, prompts = model_shape(tiny_student), record['tokens'] - record['target_tokens']
    upper, head = training_flops(record, shape)['total'], 2*shape.vocab*shape.hidden
    forwards = 3 + .5   # forward and backward, and the reference once in two passes
    again = head*record['target_tokens']   # TRL makes the logits in pieces, and once more for the way back
    assert counter.get_total_flops() == pytest.approx(upper - forwards*head*prompts + again, rel=.05)


def test_what_it_does_not_go_with():
    for name in ('dpo+cgd', 'dpo-to-cgd'):
        with pytest.raises(CgdError, match='cannot be mixed; it can follow another: cgd-then-dpo'): read_training(name)
    with pytest.raises(CgdError, match='judge: no method of this run asks for one; take .*ai_feedback or'): plan(RunConfig(judge='oracle', n_problems=4, benchmarks=('test:2',)))
    with pytest.raises(CgdError, match='budget: .* kept for dpo, which learns from two'): plan(RunConfig(methods=('dpo',), budget='target_tokens', n_problems=4, benchmarks=('test:2',)))
    with pytest.raises(CgdError, match='student_url: an endpoint gives no perplexity'): plan(RunConfig(methods=('cdf',), student_url='openai:m@http://localhost:1/v1', n_problems=4, benchmarks=('test:2',)))
    with pytest.raises(CgdError, match='prefer.keep=best chooses'): plan(RunConfig(methods=('dpo',), prefer=PreferConfig(keep='best'), n_problems=4, benchmarks=('test:2',)))
    for methods, why in ((('cgd',), 'no method of this run has a second stage'), (('dsft', 'dsft-then-dpo'), 'dsft learns from all problems'),
                         (('dsft-then-grpo',), 'dsft-then-grpo learns from all problems')):
        with pytest.raises(CgdError, match=f'views.first_share: {why}'): plan(RunConfig(methods=methods, views=ViewConfig(first_share=.1), n_problems=4, benchmarks=('test:2',)))
    with pytest.raises(CgdError, match='over wants learns'): add_method(Method('odd', 'odd', 'Odd.', over='draft', trainer='a:b'))
    with pytest.raises(CgdError, match='r1: refinement or draft has no grade'): build([TRACES[0] | dict(draft_grade=None)], 'dpo', ViewConfig(only_better=True))


def test_a_judge_is_in_the_estimate():
    "Both orders of each draft, as often as several teachers have an answer to it"
    for teachers, n in ((('oracle',), 8), (('oracle', 'hf:smollm2'), 16)):
        planned = Plan(RunConfig(methods=('ai_feedback',), teacher=teachers, teacher_share='all', judge='oracle', n_problems=4))
        task = _preferences(planned, [p | dict(sample=0, student='x', draft='y') for p in planned.problems], None)
        assert (task.stage, task.left) == ('prefer', n)


def test_a_judge_that_is_a_language_model(tiny_model, tmp_path):
    "Random weights say nothing that can be read, so nothing is preferred; both orders are asked"
    rows = [t | dict(direct=t['refinement'], direct_grade='right', student='x', sample=0) for t in TRACES[:2]]
    with Store(tmp_path/'store.sqlite') as store, open_teacher(f'hf:{tiny_model}') as judge:
        judge.drawn = judge.drawn.model_copy(update=dict(max_new_tokens=4))
        judged = prefer_stage(rows, judge, store)
        assert len(store) == 4
    assert [(r['preferred'], r['replies']) for r in judged] == [(None, '--')]*2 and judged[0]['judge'] == judge.name


METHODS_RUN = 'dpo', 'dsft_refined-then-dpo', 'ai_feedback', 'cdf', 'cdf_random'


@pytest.fixture(scope='module')
def finished(tiny_student, tmp_path_factory):
    "A run whose drafts are given: right at first and wrong at the end, so that the oracle's refinements are not its own answers"
    folder = tmp_path_factory.mktemp('runs')
    from cgd.data import load_problems
    rows = [p | dict(draft=f"Let us see. {p['solution'].splitlines()[0]}\nThe answer is {i}.") for i, p in enumerate(load_problems('train', 60).rows) if len(p['solution'].splitlines()) > 2][:12]
    write_table(rows, folder/'drafts.jsonl')
    cfg = RunConfig(name='preferences', folder=str(folder), student=tiny_student, student_engine='hf', adapters='serve', traces=str(folder/'drafts.jsonl'), methods=METHODS_RUN, decontaminate=False,
                    benchmarks=('test:2',), draft=SampleConfig(max_new_tokens=8), eval=EvalConfig(max_new_tokens=8), train=TrainConfig(backend='trl', epochs=1, batch_size=8, device_batch_size=8),
                    prefer=PreferConfig(lr=1e-3, batch_size=4, device_batch_size=4, dtype='float32', save_steps=100))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(cgd.pipeline, 'train', lambda *args, **more: fit(*args, **more))
        m.setattr(import_module('cgd.train'), 'launch', lambda target, *args, env: call_by_name(target, *args))
        yield cfg, run(cfg)


def test_a_run_of_preferences(finished):
    cfg, said = finished
    assert all(f' {m} ' in said for m in ('base', *cfg.methods))
    made = {f.parent.name: json.loads(f.read_text()) for f in cfg.path('models').glob('*/train.json')}
    assert made.keys() == {'dsft_refined', *cfg.methods} and made['dsft_refined-then-dpo']['base'] == 'dsft_refined-merged' and made['dsft_refined-then-dpo']['view'] == 'dpo'
    for m in METHODS_RUN: assert read_losses(cfg.path('models', m))[0]['loss'] == pytest.approx(math.log(2), abs=1e-4), m   # as the second stage, too: its own start is what it is measured against
    pairs = {m: read_table(cfg.path('pairs', f'{m}.jsonl')) for m in cfg.methods}
    assert {len(p) for p in pairs.values()} == {12} and pairs['cdf'] != pairs['cdf_random']
    traces = {t['row_id']: t for t in read_table(cfg.path('traces.parquet'))}
    assert all(t['preferred'] == 'direct' and t['draft_perplexity'] > 1 and t['rewrite'] for t in traces.values())
    ledger = {(r['method'], r['stage']): r for r in read_table(cfg.path('ledger.csv'))}
    assert int(ledger['', 'perplexity']['prompt_tokens']) > 0
    for m in cfg.methods: assert float(ledger[m, 'train']['flops']) > 0 and int(ledger[m, 'train']['completion_tokens']) == made[m]['target_tokens']


def test_it_grows_by_fine_tuning_and_the_preferences_stay(finished):
    "Another method is added: what is trained is not trained again"
    cfg, _ = finished
    before = {m: (cfg.path('models', m)/'train.json').stat().st_mtime_ns for m in cfg.methods}
    more = cfg.model_copy(update=dict(methods=(*cfg.methods, 'dsft_refined')))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(cgd.pipeline, 'train', lambda *args, **more: fit(*args, **more))
        run(more, 'train')
    assert {m: (cfg.path('models', m)/'train.json').stat().st_mtime_ns for m in cfg.methods} == before


def test_two_stages_with_problems_of_their_own(finished):
    "A quarter of the problems is fine-tuned on; the preferences are of all others; neither depends on the other methods"
    cfg, _ = finished
    apart = cfg.model_copy(update=dict(name='apart', methods=('dsft_refined-then-dpo', 'dpo'), views=ViewConfig(first_share=.25)))
    run(apart, 'pairs')
    problems = {f.stem: {r['bare_problem'] for r in read_table(f)} for f in apart.path('pairs').glob('*.jsonl')}
    first, then = problems['dsft_refined'], problems['dsft_refined-then-dpo']
    assert len(first) == 3 and len(then) == 9 and not first & then and problems['dpo'] == first | then
