"Relatives of CGD by name in one run: their texts come from the teacher's stages, cost is kept apart, and pairs, trainings, tests and the report know them"
from importlib import import_module

import pandas as pd
import pytest
from markupsafe import escape

import cgd.pipeline
from cgd.core import CgdError, read_table
from cgd.evaluate import EvalConfig
from cgd.methods import METHODS, Method, add_method, show_method
from cgd.pipeline import run
from cgd.plan import RunConfig
from cgd.process import call_by_name
from cgd.recipe import TrainConfig
from cgd.store import SampleConfig
from cgd.train import fit
from cgd.views import build

RELATIVES = 'sft_answer', 'dsft_short', 'dsft_answer', 'ls_mix', 'reorder', 'cft_full', 'cgd_noisy'
TRAINED = [name for name in RELATIVES if name != 'dsft_answer']
SMALL = TrainConfig(backend='trl', epochs=1, batch_size=3, device_batch_size=3, dtype='float32', save_steps=1000)


@pytest.fixture(scope='module')
def ran(tiny_student, tmp_path_factory):
    cfg = RunConfig(name='relatives', folder=str(tmp_path_factory.mktemp('relatives')), student=tiny_student, student_engine='hf', adapters='serve',
                    n_problems=6, methods=RELATIVES, benchmarks=('test:2',), draft=SampleConfig(max_new_tokens=8), eval=EvalConfig(max_new_tokens=8), train=SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cgd.pipeline, 'train', lambda *args, **more: fit(*args, **more))
        patch.setattr(import_module('cgd.train'), 'launch', lambda target, *args, env: call_by_name(target, *args))
        return cfg, run(cfg)


def test_each_is_in_the_report(ran):
    "The oracle's answers are the gold ones, so answers without reasoning are the same for both and reported as one"
    cfg, said = ran
    page = cfg.path('report.html').read_text()
    for name in TRAINED: assert f' {name} ' in said and str(escape(METHODS[name].label)) in page
    assert set(pd.read_csv(cfg.path('costs.csv')).method) == set(TRAINED)


def test_shortened_answers_are_made_and_kept(ran):
    rows = read_table(ran[0].path('traces.parquet'))
    for column in ('short', 'direct_short'):
        assert {r[f'{column}_grade'] for r in rows} == {'right'} and {r[f'{column}_finish'] for r in rows} == {'stop'}
        assert all(len(r[column]) < len(r['direct']) for r in rows)


def test_pairs_are_saved(ran):
    counts = {name: len(read_table(ran[0].path('pairs', f'{name}.jsonl'))) for name in TRAINED}
    assert counts == dict.fromkeys(TRAINED, 6) | dict(ls_mix=12)


def test_a_step_that_is_not_asked_for_is_not_made(tiny_student, tmp_path):
    cfg = RunConfig(name='plain', folder=str(tmp_path), student=tiny_student, student_engine='hf', n_problems=2, methods=('dsft',), draft=SampleConfig(max_new_tokens=8))
    assert not {'short', 'direct_short'} & {*run(cfg, 'refine')[0]}


def test_a_change_by_name_works_from_outside():
    named = Method('named', 'by name', 'A change by its name.', learns='direct', shows=('steps',), ask='Order these.', change='cgd.relatives:shuffle_steps', colour='#123456')
    row = dict(row_id='r', prompt='What is 2 + 2 + 2?', direct='2 + 2 = 4\n4 + 2 = 6\nIt is 6.')
    try: assert build([row], add_method(named)).rows[0]['steps'].count('\n') == 1 and '<steps>' in show_method('named')
    finally: METHODS.pop('named', None)
    with pytest.raises(CgdError, match="has no column 'steps'"): add_method(Method('unmade', 'none', 'No change.', learns='direct', shows=('steps',), ask='Order.', colour='#123456'))
