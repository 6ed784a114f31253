"A chain of three stages: each begins with what the one before has made, goes on after a stop, is paid for whole, and is taken elsewhere with its own beginning"
import json
import warnings
from importlib import import_module

import pandas as pd
import pytest

import cgd.pipeline
from cgd.core import read_table
from cgd.estimate import estimate_run
from cgd.evaluate import EvalConfig
from cgd.export import _chosen, _place_base, _Taken
from cgd.methods import ViewConfig
from cgd.models import fingerprint
from cgd.pipeline import open_student, run
from cgd.plan import Plan, RunConfig
from cgd.process import call_by_name
from cgd.recipe import TrainConfig
from cgd.store import SampleConfig, Store, sessions
from cgd.train import fit

CHAIN = 'dsft', 'dsft-then-dsft_short', 'dsft-then-dsft_short-then-dsft_answer'


def trained(cfg) -> dict:
    return {f.parent.name: (json.loads(f.read_text()), f.stat().st_mtime_ns) for f in cfg.path('models').glob('*/train.json')}


@pytest.fixture(scope='module')
def finished(tiny_student, tmp_path_factory):
    "A run that was stopped before its third stage, what it had by then, and how it ended; trained in this process, as three imports of torch would take minutes"
    cfg = RunConfig(name='chain', folder=str(tmp_path_factory.mktemp('runs')), student=tiny_student, student_engine='hf', n_problems=8, methods=CHAIN[-1:], benchmarks=('test:2',),
                    draft=SampleConfig(max_new_tokens=8), eval=EvalConfig(max_new_tokens=8), train=TrainConfig(backend='trl', epochs=1, batch_size=4, device_batch_size=4, lr=1e-2, dtype='float32'))
    def stopped(pairs, recipe, base, out, **more):
        if out.name == CHAIN[-1]: raise KeyboardInterrupt
        return fit(pairs, recipe, base, out, **more)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(import_module('cgd.train'), 'launch', lambda target, *args, env: call_by_name(target, *args))
        m.setattr(cgd.pipeline, 'train', stopped)
        with pytest.raises(KeyboardInterrupt): run(cfg)
        before = trained(cfg)
        m.setattr(cgd.pipeline, 'train', lambda *args, **more: fit(*args, **more))
        with warnings.catch_warnings():
            warnings.filterwarnings('error', message='constrained_layout not applied')   # a long name leaves a figure no room
            said = run(cfg)
    return cfg, before, said


def test_each_stage_begins_with_the_merge_of_the_one_before(finished):
    cfg, _, said = finished
    made = {name: record for name, (record, _) in trained(cfg).items()}
    assert made.keys() == {*CHAIN} and f' {CHAIN[-1]} ' in said
    assert [made[name]['base_fingerprint'] for name in CHAIN] == [fingerprint(f) for f in (cfg.student, *(str(cfg.path('models', f'{name}-merged')) for name in CHAIN[:2]))]
    assert len({made[name]['base_fingerprint'] for name in CHAIN}) == 3 and [made[name]['view'] for name in CHAIN] == ['dsft', 'dsft_short', 'dsft_answer']
    assert len({tuple(p['completion'][0]['content'] for p in read_table(cfg.path('pairs', f'{name}.jsonl'))) for name in CHAIN}) == 3
    assert 'Distilled SFT, then short answers, then answers alone' in cfg.path('report.html').read_text()


def test_stages_that_were_done_before_a_stop_stay(finished):
    cfg, before, _ = finished
    after = trained(cfg)
    assert before.keys() == {*CHAIN[:2]} and all(after[name] == before[name] for name in before)
    with Store(cfg.path('store.sqlite')) as store: assert sum(s['requests'] for s in sessions(store) if s['stage'] == 'draft') == 8


def test_it_pays_for_all_three(finished):
    cfg, *_ = finished
    ledger = pd.read_csv(cfg.path('ledger.csv'), keep_default_na=False).set_index(['method', 'stage', 'who']).flops.astype(float)
    costs = pd.read_csv(cfg.path('costs.csv')).set_index('method').flops
    assert costs[CHAIN[-1]] == pytest.approx(sum(ledger[name, 'train', 'student'] for name in CHAIN) + ledger['', 'draft', 'student'], rel=1e-4)
    lines = [r for r in estimate_run(Plan(cfg), 'report', open_student, []) if r['stage'] == 'train']
    assert [(r['method'], r['left']) for r in lines] == [(name, 0) for name in CHAIN]
    fresh = cfg.model_copy(update=dict(name='fresh'))
    assert all(r['left'] == 8 and r['seconds'] > 0 for r in estimate_run(Plan(fresh), 'report', open_student, []) if r['stage'] == 'train')


def test_another_tool_begins_where_the_last_stage_did(finished, tmp_path):
    "Not with the untrained student"
    plan = Plan(finished[0])
    _place_base(_Taken(plan, _chosen(plan, CHAIN[-1])), tmp_path)
    assert (tmp_path/'base'/'model.safetensors').read_bytes() == plan.cfg.path('models', f'{CHAIN[1]}-merged', 'model.safetensors').read_bytes()


def test_the_first_stage_has_its_share_and_all_later_ones_the_others(finished):
    cfg, *_ = finished
    apart = cfg.model_copy(update=dict(name='apart', views=ViewConfig(first_share=.25)))
    run(apart, 'pairs')
    first, second, third = ({r['bare_problem'] for r in read_table(apart.path('pairs', f'{name}.jsonl'))} for name in CHAIN)
    assert first and second and second == third and not first & second
