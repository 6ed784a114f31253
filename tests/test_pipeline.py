"A run with what the notebook's does not have: several teachers, and adapters that stay adapters"
import json

import pandas as pd
import pytest

from cgd.core import CgdError, read_table
from cgd.evaluate import EvalConfig
from cgd.generate import SampleConfig, Store, sessions
from cgd.pipeline import RunConfig, run
from cgd.teacher import TeacherConfig
from cgd.train import TrainConfig


@pytest.fixture(scope='module')
def cfg(tiny_student, tmp_path_factory) -> RunConfig:
    return RunConfig(name='two', folder=str(tmp_path_factory.mktemp('runs')), student=tiny_student, student_engine='hf', adapters='serve',
                     teacher=('reference', f'hf:{tiny_student}'), teach=TeacherConfig(detail='exact', max_new_tokens=8), n_problems=12,
                     methods=('cgd', 'dsft_refined'), benchmarks=('test:3',), draft=SampleConfig(n=2, temperature=1., max_new_tokens=8), drop_solved=True,
                     validation='val:4', views=dict(keep_truncated=True), eval=EvalConfig(max_new_tokens=8), train=TrainConfig(backend='trl', epochs=1, batch_size=8, device_batch_size=8))


def test_each_problem_has_one_of_the_teachers(cfg):
    traces = run(cfg, 'refine')
    assert len(traces) == 2 * (12 + 4) and {t['preset'] for t in traces} == {'exact', 'paper'}
    by_problem = pd.DataFrame(traces).groupby('problem_id').teacher.nunique()
    assert len(by_problem) == 16 and set(by_problem) == {1}
    assert read_table(cfg.path('traces.parquet')) == traces


def test_adapters_are_served_from_one_base(cfg):
    said = run(cfg)
    assert 'oracle teacher (detail exact) and teacher hf:' in said
    assert not list(cfg.path('models').glob('*-merged')) and (cfg.path('models', 'cgd', 'adapter_config.json')).exists()
    with Store(cfg.path('store.sqlite')) as store: asked = [s for s in sessions(store) if s['stage'] == 'evaluate']
    assert len({s['model'] for s in asked}) == 3 and [s['load_seconds'] > 0 for s in asked] == [True, False, False]
    held_out = {t['row_id'] for t in read_table(cfg.path('traces.parquet')) if t['problem_id'].startswith('val-')}
    assert held_out and not held_out & {r['row_id'] for r in read_table(cfg.path('pairs', 'cgd.jsonl'))}
    assert json.loads(cfg.path('models', 'cgd', 'train.json').read_text())['validation']   # its loss was watched
    assert len(list(cfg.path('records').iterdir())) == 3
    assert run(cfg) == said


def test_a_setting_for_no_teacher_is_an_error(cfg):
    with pytest.raises(CgdError, match='teach.wrong_rate: no teacher of this run'):
        run(cfg.model_copy(update=dict(teacher=('openai:a@http://127.0.0.1:1/v1', 'openai:b@http://127.0.0.1:1/v1'), teach=TeacherConfig(wrong_rate=.5, preset='chained'))), 'draft')


def test_without_methods_the_student_is_only_evaluated(cfg):
    bare = cfg.model_copy(update=dict(name='bare', methods=(), problems='test', validation=None, benchmarks=('test:3',)))
    said = run(bare)
    assert 'as it is' in said and 'difference' not in said
    with Store(bare.path('store.sqlite')) as store: assert {s['stage'] for s in sessions(store)} == {'evaluate'}
    with pytest.raises(CgdError, match='draft needs some'): run(bare, 'draft')
