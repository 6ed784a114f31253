"A run with what the notebook's does not have: several teachers, and adapters that stay adapters"
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from cgd.cli import main
from cgd.core import CgdError, read_table, read_times, write_table
from cgd.data import load_problems
from cgd.evaluate import EvalConfig
from cgd.generate import EngineConfig
from cgd.store import SampleConfig, Store, sessions
from cgd.methods import METHODS
from cgd.pipeline import analyse, eval_stage, regrade_run, report, run
from cgd.plan import Plan, RunConfig
from cgd.teacher import TeacherConfig
from cgd.recipe import TrainConfig


@pytest.fixture(scope='module')
def cfg(tiny_student, tmp_path_factory) -> RunConfig:
    return RunConfig(name='two', folder=str(tmp_path_factory.mktemp('runs')), student=tiny_student, student_engine='hf', adapters='serve',
                     teacher=('oracle', f'hf:{tiny_student}'), teach=TeacherConfig(detail='exact', max_new_tokens=8), n_problems=12,
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
    assert len({s['model'] for s in asked}) == 3 and [s['load_seconds'] > 0 for s in asked] == [True, True, False]   # the untrained student has its own engine, which drafts
    held_out = {t['row_id'] for t in read_table(cfg.path('traces.parquet')) if t['problem_id'].startswith('val-')}
    assert held_out and not held_out & {r['row_id'] for r in read_table(cfg.path('pairs', 'cgd.jsonl'))}
    assert json.loads(cfg.path('models', 'cgd', 'train.json').read_text())['validation']   # its loss was watched
    assert len(list(cfg.path('records').iterdir())) == 3
    assert run(cfg) == said


def test_a_run_that_grows_is_not_done_until_its_new_students_are_tested(cfg):
    "Records of students as they were, and tables of them, do not stand for those to come; the untrained student stays, and a teacher that is not there costs nothing"
    shutil.copytree(cfg.path(), grown := cfg.path().with_name('grown'))
    more = cfg.model_copy(update=dict(name='grown', n_problems=14))
    (grown/'uncertainty.csv').write_text('model,value\nbase,1\n')   # measured before it grew last
    report(grown)
    assert not (grown/'uncertainty.csv').exists() and (grown/'results.csv').exists()
    with pytest.raises(CgdError, match='teacher: openai:m@'): run(cfg.model_copy(update=dict(name='typo', teacher=('openai:m@http://127.0.0.1:1/v1',), teach=TeacherConfig(), teacher_engine=EngineConfig(max_retries=0))), 'refine')
    assert not cfg.path().with_name('typo').joinpath('config.yaml').exists()   # so that the teacher's name can be put right
    run(more, 'draft')
    assert [f.name for f in (grown/'records').iterdir()] == ['base.test.parquet'] and not (grown/'results.csv').exists()
    with pytest.raises(CgdError, match='not evaluated yet: cgd on test, dsft_refined on test'): report(grown)


def test_adapters_are_tested_before_whole_models_take_the_place_of_their_base(cfg, tmp_path, monkeypatch):
    (tmp_path/'cgd').mkdir()
    (tmp_path/'cgd'/'adapter_config.json').write_text('{}')
    seen, at = [], SimpleNamespace(base=cfg.student, adapter=None)
    engine = SimpleNamespace(set_model=lambda m: vars(at).update(base=m, adapter=None), set_adapter=lambda a: vars(at).update(adapter=a))
    monkeypatch.setattr('cgd.pipeline._examine', lambda plan, method, engine, store: seen.append((method, at.base, at.adapter and Path(at.adapter).name)))
    eval_stage(Plan(cfg), dict(base=cfg.student, chain='/merged/chain', cgd=str(tmp_path/'cgd')), None, engine)
    assert seen == [('base', cfg.student, None), ('cgd', cfg.student, 'cgd'), ('chain', '/merged/chain', None)]


def test_regrading_changes_all_records_or_none(cfg, monkeypatch):
    shutil.copytree(cfg.path(), again := cfg.path().with_name('again'))
    before, calls = {f.name: f.read_bytes() for f in (again/'records').iterdir()}, []
    def grade(items, records, allow_code):
        calls.append(items)
        if len(calls) == 2: raise CgdError('the grader is gone')
        return [r | dict(boxed='right') for r in records]
    monkeypatch.setattr('cgd.pipeline.regrade_items', grade)
    with pytest.raises(CgdError, match='the grader is gone'): regrade_run(again)
    assert {f.name: f.read_bytes() for f in (again/'records').iterdir()} == before and len(before) == 3


def test_an_analysis_looks_at_the_held_out_problems_of_all_teachers_and_costs_the_run_nothing(cfg):
    shutil.copytree(cfg.path(), looked := cfg.path().with_name('looked'))
    spent = read_table(looked/'ledger.csv')
    analyse(looked, rows=2)
    tables = {name: read_table(looked/f'{name}.csv') for name in ('uncertainty', 'uncertainty_gaps', 'alignment', 'attention', 'drift')}
    assert {r['model'] for r in tables['uncertainty']} == {r['model'] for r in tables['attention']} == {'base', 'cgd', 'dsft_refined'}
    assert {r['n'] for r in tables['uncertainty']} == {2}
    assert [(r['stage'], r['requests']) for r in read_table(looked/'ledger.csv')] == [(r['stage'], r['requests']) for r in spent]
    with pytest.raises(CgdError, match='rows'): analyse(looked, rows=0)


def test_what_gives_a_test_away_is_neither_drafted_nor_learnt_from(cfg, tmp_path):
    near, = load_problems('test', 1).rows
    own = load_problems('train', 4).rows
    quoting = [dict(p, draft=f'I know another one: {near["prompt"]} It is 7.' if i == 2 else 'It is 7.') for i, p in enumerate(own)]
    one = dict(teacher=('oracle',), teach=TeacherConfig(detail='exact'), drop_solved=False, validation=None, draft=SampleConfig(max_new_tokens=8))
    seen = cfg.model_copy(update=one | dict(name='near', problems=str(write_table([*own[:3], near], tmp_path/'near.jsonl')), n_problems=None, benchmarks=('test:1',)))
    pairs = run(seen, 'pairs')
    assert {r['bare_problem'] for r in pairs['cgd'].rows} == {p['prompt'] for p in own[:3]} and near['prompt'] not in {t['prompt'] for t in read_table(seen.path('traces.parquet'))}
    assert {r['test'] for r in read_table(seen.path('contamination-problems.csv'))} == {near['problem_id']}
    told = cfg.model_copy(update=one | dict(name='told', traces=str(write_table(quoting, tmp_path/'told.jsonl')), n_problems=None, benchmarks=('test:1',)))
    assert {r['bare_problem'] for r in run(told, 'pairs')['cgd'].rows} == {p['prompt'] for p in own if p is not own[2]}
    assert {r['column'] for r in read_table(told.path('contamination-traces.csv'))} == {'draft'}
    with pytest.raises(CgdError, match='1 problems of test:1 are trained on, too'):
        run(cfg.model_copy(update=one | dict(name='all', problems=str(write_table([near], tmp_path/'all.jsonl')), n_problems=None, benchmarks=('test:1',))), 'draft')


def test_one_process_for_drafts_and_base_one_for_trainings_one_for_students(cfg):
    merged = cfg.model_copy(update=dict(name='merged', adapters='merge', teacher=('oracle',), teach=TeacherConfig(detail='exact'), draft=SampleConfig(max_new_tokens=8),
                                        drop_solved=False, validation=None))
    run(merged)
    at_work = [(r['kind'], r['process']) for r in read_times(merged.path()) if r['kind'] in ('load', 'merge')]
    kinds = [tuple(sorted({kind for kind, p in at_work if p == process})) for process in dict.fromkeys(p for _, p in at_work)]
    assert kinds == [('load',), ('load', 'merge'), ('load',)], at_work
    assert [kind for kind, _ in at_work].count('merge') == 2


def test_a_setting_for_no_teacher_is_an_error(cfg):
    with pytest.raises(CgdError, match='teach.wrong_rate: no teacher of this run'):
        run(cfg.model_copy(update=dict(teacher=('openai:a@http://127.0.0.1:1/v1', 'openai:b@http://127.0.0.1:1/v1'), teach=TeacherConfig(wrong_rate=.5, preset='chained'))), 'draft')


def test_without_methods_the_student_is_only_evaluated(cfg):
    bare = cfg.model_copy(update=dict(name='bare', methods=(), problems='test', validation=None, benchmarks=('test:3',)))
    said = run(bare)
    assert 'as it is' in said and 'difference' not in said
    with Store(bare.path('store.sqlite')) as store: assert {s['stage'] for s in sessions(store)} == {'evaluate'}
    with pytest.raises(CgdError, match='draft needs some'): run(bare, 'draft')


@pytest.mark.parametrize('module', ['results', 'pipeline', 'sweep'])
def test_what_a_config_says_is_read_by_the_plan_alone(module):
    "No stage takes a spec apart or loads a set, and none knows a method by its name"
    source = (Path(__file__).parent.parent/'cgd'/f'{module}.py').read_text()
    assert not re.findall(r"load_problems|load_benchmark|read_training\(|partition\('[:@]'\)|cfg\.(?:benchmarks|teacher|lm_eval)\b", source)
    assert not re.findall(rf"'(?:{'|'.join(METHODS)})'", source)


def committed(path) -> list[tuple]:
    "What a store holds, read beside the process that writes it"
    if not path.exists(): return []
    db = sqlite3.connect(path)
    try: return db.execute('SELECT key, text, digest FROM completions ORDER BY id').fetchall()
    except sqlite3.OperationalError: return []   # its tables are being made
    finally: db.close()


def test_eval_goes_on_after_a_kill_and_costs_nothing_when_repeated(tmp_path):
    "`cgd eval` with the student that comes with cgd"
    (tmp_path/'c.yaml').write_text(f'name: e\nfolder: {tmp_path}\nmethods: []\nbenchmarks: [test:6]\nstudent_engine: hf\nengine: {{batch_size: 1, dtype: float32}}\neval: {{max_new_tokens: 24}}\n')
    store, command = tmp_path/'e'/'store.sqlite', [sys.executable, '-c', 'import sys; from cgd.cli import main; sys.exit(main())', 'eval', str(tmp_path/'c.yaml')]
    process = subprocess.Popen(command, start_new_session=True)
    end = time.time() + 240
    while len(committed(store)) < 2 and process.poll() is None and time.time() < end: time.sleep(.02)
    os.killpg(process.pid, signal.SIGKILL); process.wait()
    kept = committed(store)
    assert process.returncode == -signal.SIGKILL and 2 <= len(kept) < 6 and not list((tmp_path/'e'/'records').glob('*'))
    assert main(command[3:]) == 0   # these two in this process, which has torch already
    whole, records = committed(store), read_table(tmp_path/'e'/'records'/'base.test.parquet')
    assert len(whole) == len(records) == 6 and whole[:len(kept)] == kept and {r['completion'] for r in records} == {text for _, text, _ in whole}
    with Store(store) as s: before = sessions(s)
    assert main(command[3:]) == 0
    with Store(store) as s: assert sessions(s) == before       # no session, no request, no model loaded
    assert sum(s['requests'] for s in before) == 6 and committed(store) == whole and read_table(tmp_path/'e'/'records'/'base.test.parquet') == records
