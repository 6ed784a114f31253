"A sweep of real, tiny runs: cut short after the first, gone on with, and its tables"
import json, os, shutil, subprocess
from pathlib import Path

import pandas as pd
import pytest

import cgd.merge
import cgd.pipeline
from cgd.core import CgdError, read_table, shipped
from cgd.evaluate import EvalConfig
from cgd.store import SampleConfig, Store, sessions
from cgd.plan import RunConfig
from cgd.sweep import Arm, SweepConfig, cells, finished, run_sweep, save_tables
from cgd.process import call_by_name
from cgd.recipe import TrainConfig
from cgd.train import fit


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder to work in"
    folder, before = tmp_path_factory.mktemp('home'), os.getcwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope='module', autouse=True)
def trained_here():
    "Trainings and merges in this process, which has torch already"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(cgd.pipeline, 'train', lambda *args, **more: fit(*args, **more))
        m.setattr(cgd.merge, 'launch', lambda target, *args, env: call_by_name(target, *args))
        yield


@pytest.fixture(scope='module')
def sweep(tiny_student, home) -> SweepConfig:
    run = RunConfig(student=tiny_student, student_engine='hf', n_problems=4, benchmarks=('test:3',), draft=SampleConfig(max_new_tokens=8), views=dict(keep_truncated=True),
                    eval=EvalConfig(max_new_tokens=8), train=TrainConfig(backend='trl', epochs=1, batch_size=4, device_batch_size=4))
    return SweepConfig(name='tiny', folder='data/results', run=run, contrasts=(('arm/cgd', 'arm/dsft_refined'),), baseline='arm/dsft_refined',
                       arms=dict(arm=Arm(methods=('cgd', 'dsft_refined'), seeds=(0, 1))))


def test_tables_want_a_finished_run(sweep):
    with pytest.raises(CgdError, match='no run of this sweep is finished yet'): save_tables(sweep)


def test_a_sitting_ends_and_the_next_goes_on(sweep, capsys):
    run_sweep(sweep, hours=1e-4)   # time for one run, because the first is always begun
    assert [finished(c) for c in cells(sweep)] == [True, False]
    assert 'run 2 of 2' in (said := capsys.readouterr().out) and 'stopped here' in said
    assert '2 of 2 runs' in run_sweep(sweep)
    assert 'arm-s0' not in capsys.readouterr().out.split('== arm-s1')[0]   # it was not run again
    with Store(sweep.path('store.sqlite')) as store: made = [s for s in sessions(store) if s['stage'] == 'draft']
    assert sum(s['requests'] for s in made) == 4   # both seeds share the drafts
    assert not list(sweep.path().glob('*/models/*-merged'))


def test_arms_share_a_first_stage(sweep, capsys):
    "What differs in its methods alone takes the training over; another recipe trains its own, and so does one whose first stage git has kept without weights"
    arms = dict(first=Arm(methods=('cgd',), seeds=(0, 1)), longer=Arm(methods=('cgd',), set={'train.epochs': 2}), then=Arm(methods=('cgd-then-dsft_refined',), seeds=(0, 1)))
    shared = sweep.model_copy(update=dict(name='shared', arms=arms, contrasts=(), baseline=''))
    def weights(name): return shared.path(name, 'models', 'cgd', 'adapter_model.safetensors')
    run_sweep(shared.model_copy(update=dict(arms=dict(first=arms['first']))))
    weights('first-s1').unlink()
    run_sweep(shared)
    assert weights('then-s0').read_bytes() == weights('first-s0').read_bytes() != weights('longer-s0').read_bytes()
    assert weights('then-s1').exists() and not weights('first-s1').exists()
    assert [line.split(' begins')[0][-7:] for line in capsys.readouterr().out.splitlines() if 'begins with the trainings cgd of' in line] == ['then-s0']


def test_tables_of_a_sweep(sweep):
    assert '2 of 2 runs' in run_sweep(sweep)
    scores, methods, contrasts, losses = (pd.read_csv(sweep.path(f'{name}.csv')) for name in ('scores', 'methods', 'contrasts', 'losses'))
    assert sorted(zip(scores.method, scores.seed)) == [('base', -1), ('cgd', 0), ('cgd', 1), ('dsft_refined', 0), ('dsft_refined', 1)]
    assert set(methods[methods.method == 'cgd'].seeds) == {2} and set(methods.n) == {3}
    assert set(zip(contrasts.kind, contrasts.a, contrasts.b)) == {('primary', 'arm/cgd', 'arm/dsft_refined'), ('exploratory', 'arm/cgd', 'base'), ('exploratory', 'arm/dsft_refined', 'base')}
    record = json.loads((cells(sweep)[0].cfg.path('models', 'cgd', 'train.json')).read_text())
    assert scores.query('method == "cgd" and seed == 0').target_tokens.tolist() == [record['target_tokens']] and len(losses) == 4
    assert len(read_table(sweep.path('outcomes.parquet'))) == 5 * 3


def test_a_clone_goes_on(sweep, home, tmp_path, monkeypatch):
    "What git keeps of a sweep is enough for all its tables"
    shutil.copy(Path(__file__).parent.parent/'.gitignore', home)
    git = lambda *args: subprocess.run(['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *map(str, args)], check=True, capture_output=True)
    git('init', '-q'); git('add', '-A'); git('commit', '-qm', 'a sitting')
    git('clone', '-q', home, tmp_path/'clone')
    kept, made = tmp_path/'clone'/'data'/'results'/'tiny', sweep.path().absolute()
    assert not list(kept.rglob('*.safetensors')) and not (kept/'store.sqlite').exists() and (made/'store.sqlite').exists()
    tables = {f.name: f.read_bytes() for f in made.glob('*.csv')}
    for name in tables.keys() - {'sessions.csv'}: (kept/name).unlink()
    monkeypatch.chdir(tmp_path/'clone')
    assert '2 of 2 runs' in run_sweep(sweep)
    assert {f.name: f.read_bytes() for f in kept.glob('*.csv')} == tables and {'ledger.csv', 'losses.csv', 'drift.csv'} <= tables.keys()


def test_a_run_made_with_other_settings_is_refused(sweep):
    other = lambda n: sweep.model_copy(update=dict(run=sweep.run.model_copy(update=dict(n_problems=n))))
    with pytest.raises(CgdError, match='made with other settings'): run_sweep(other(3))
    assert [all(map(finished, cells(other(n)))) for n in (4, 5)] == [True, False]   # what only adds goes on


@pytest.mark.parametrize('file', sorted(shipped('configs/studies').glob('*.yaml')), ids=lambda f: f.stem)
def test_studies_can_be_planned(file):
    assert cells(SweepConfig.load(file))


def test_the_seed_of_an_arm_is_that_of_every_training():
    "DPO's recipe kept seed 0 in all arms once, and three seeds were one"
    found = cells(SweepConfig(name='x', arms=dict(a=Arm(methods=('dpo', 'cgd', 'grpo'), seeds=(0, 1, 2)))))
    assert [[c.cfg.train.seed, c.cfg.prefer.seed, c.cfg.rl.seed, c.cfg.views.seed] for c in found] == [[s]*4 for s in (0, 1, 2)]


@pytest.mark.parametrize('more', (dict(set={'train.seed': 7}), dict(grid={'rl.seed': (1, 2)}), dict(set={'methods': ['dsft']})))
def test_what_the_sweep_sets_itself_is_not_set_in_an_arm(more):
    "It lost without a word, and a grid of seeds was one run several times"
    with pytest.raises(CgdError, match='arms: a: .* is set by the sweep itself'): cells(SweepConfig(name='x', arms=dict(a=Arm(methods=('cgd',), **more))))
    assert len({c.cfg.views.seed for c in cells(SweepConfig(name='x', seeded=('train.seed',), arms=dict(a=Arm(methods=('cgd',), grid={'views.seed': (1, 2)}))))}) == 2


def test_arms_that_ask_in_other_words_are_no_sweep():
    "The untrained student is tested once, so all arms must test alike"
    with pytest.raises(CgdError, match='`eval` must be alike in all'):
        cells(SweepConfig(name='x', arms=dict(a=Arm(methods=('cgd',)), b=Arm(methods=('cgd',), set={'eval.shots': 3}))))


def test_committed_tables_of_a_grid_are_made_of_its_runs(tmp_path, monkeypatch):
    "Accuracy against each setting that was varied"
    monkeypatch.chdir(ROOT := Path(__file__).parent.parent)
    study = SweepConfig.load(ROOT/'configs'/'studies'/'curves.yaml')
    save_tables(study.model_copy(update=dict(results=str(tmp_path))))
    made, kept = (pd.read_csv(folder/'curves.csv') for folder in (tmp_path, ROOT/'data'/'results'/'curves'))
    assert len(made) > 4
    pd.testing.assert_frame_equal(made, kept)
    points = [json.loads(p) for p in pd.read_csv(tmp_path/'scores.csv').point]
    assert {(r.x, float(r.value)) for r in made.itertuples()} == {(x, float(value)) for point in points for x, value in point.items()} | {('train.lr', study.run.train.lr), ('teach.wrong_rate', 0.)}   # and the run at the default
