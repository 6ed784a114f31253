"Methods from outside the package: one entry and at most one function, and they are shown, built, trained in processes that know nothing of them, and reported"
from importlib import import_module

import pandas as pd
import pytest

import cgd.pipeline
import cgd.rivals
from cgd.core import CgdError
from cgd.process import call_by_name
from cgd.evaluate import EvalConfig
from cgd.figures import method_color, method_label
from cgd.store import SampleConfig
from cgd.methods import METHODS, Method, add_method, method_table, read_training, show_method
from cgd.plan import RunConfig
from cgd.pipeline import run
from cgd.rivals import RLConfig, train_rival
from cgd.recipe import TrainConfig
from cgd.train import fit, train
from cgd.views import build, compose

TRACES = [dict(row_id=f'r{i}', problem_id=f'p{i}', prompt=f'What is {i} + {i}?', reference=str(2*i), draft=f'It must be {i}, that is clear.',
               critique=f'That is {i} alone; add it twice.', refinement=rf'It is \boxed{{{2*i}}}.') for i in range(1, 7)]
SMALL = TrainConfig(backend='trl', epochs=1, batch_size=3, device_batch_size=3, dtype='float32', save_steps=1000)
ROLLING = RLConfig(steps=2, prompts=2, n=2, device_batch_size=4, max_new_tokens=8, dtype='float32', save_steps=1000)


def halve_drafts(rows, cfg): return [r | dict(draft=r['draft'][:len(r['draft'])//2]) for r in rows]


def brief_trainer(cfg, arguments, **parts):
    "TRL's GRPO, which pays for short answers"
    from trl import GRPOConfig, GRPOTrainer
    def brief(completions, **rest): return [-float(len(turns[-1]['content'])) for turns in completions]
    return GRPOTrainer(args=GRPOConfig(**arguments), reward_funcs=brief, **parts)


HALF = Method('half_draft', 'half a draft (x, ½ y′ → ŷ)', 'Learns the refinement, with half of the draft in view.', colour='#444400', mark='4',
              shows=('draft',), ask='Here is the beginning of an answer. Write a whole one.', learns='refinement', change=halve_drafts)
BRIEF = Method('brief', 'paid for brevity', 'Learns to be brief.', colour='#004444', mark='3', trainer=brief_trainer)


@pytest.fixture(scope='module', autouse=True)
def added():
    for method in (HALF, BRIEF): add_method(method)
    yield
    for method in (HALF, BRIEF): del METHODS[method.name]


def test_it_is_shown_with_the_others():
    rows = pd.DataFrame(method_table()).set_index('method')
    assert rows.sees['half_draft'] == 'problem + draft' and rows.stages['half_draft'] == 'draft, critique, refine' and rows.paper['half_draft'] == ''
    assert rows.writes['brief'] == 'its own answer' and rows.stages['brief'] == ''
    said = show_method('half_draft')
    assert HALF.about in said and HALF.ask in said and 'each purse.\n\nThere are' not in said and r'\boxed{45}' in said
    assert method_label('half_draft') == HALF.label and method_color('exact/half_draft') == HALF.colour
    with pytest.raises(CgdError, match='this name is taken'): add_method(HALF)


def test_it_makes_its_pairs_and_joins_others():
    pairs = build(TRACES, 'half_draft')
    halves = [t['draft'][:len(t['draft'])//2].strip() for t in TRACES]
    assert [r['draft'] for r in pairs.rows] == halves and all(f'<draft>\n{half}\n</draft>' in r['prompt'][0]['content'] for half, r in zip(halves, pairs.rows))
    assert not any(t['draft'] in r['prompt'][0]['content'] for t, r in zip(TRACES, pairs.rows))
    both = compose('cgd+half_draft', dict(cgd=build(TRACES, 'cgd'), half_draft=pairs))
    assert {r['view'] for r in both.rows} == {'cgd', 'half_draft'} and read_training('cgd+half_draft').label == 'CGD and half a draft, mixed'
    after = read_training('half_draft-then-brief')
    assert after.label == 'half a draft, then paid for brevity' and after.on_policy and after.stages == ('draft', 'critique', 'refine')


def test_it_is_trained_in_a_process_that_does_not_know_it(tiny_student, tmp_path):
    "One pair has to be shortened there"
    wordy = [TRACES[0] | dict(row_id='wordy', draft='So it goes on. '*200), *TRACES]
    record = train(build(wordy, HALF), SMALL.model_copy(update=dict(max_length=200)), tiny_student, tmp_path/'half', progress=False)
    assert record['view'] == 'half_draft' and record['pairs'] == 7 and record['shortened'] == 1 and record['steps'] == 3


def test_it_learns_from_its_own_completions_there(tiny_student, tmp_path):
    record = train_rival('brief', TRACES, ROLLING, tiny_student, tmp_path/'brief', progress=False)
    assert record['view'] == 'brief' and record['steps'] == 2 and len(record['rewards']) == 2 and all(r < 0 for r in record['rewards']) and record['written_by'].startswith('vllm')
    card = (tmp_path/'brief'/'README.md').read_text()
    assert 'Learns to be brief. Trained by TRL through cgd: 8 completions' in card
    assert 'reward' in (tmp_path/'brief'/'losses.csv').read_text().splitlines()[0]


def test_it_is_a_method_of_a_run(tiny_student, tmp_path, monkeypatch):
    "From problems to the report, all in this process: several times torch and TRL would take minutes"
    cfg = RunConfig(name='toys', folder=str(tmp_path), student=tiny_student, student_engine='hf', adapters='serve', n_problems=6, methods=('half_draft', 'half_draft-then-brief'),
                    benchmarks=('test:2',), draft=SampleConfig(max_new_tokens=8), eval=EvalConfig(max_new_tokens=8), train=SMALL, rl=ROLLING)
    monkeypatch.setattr(cgd.pipeline, 'train', lambda *args, **more: fit(*args, **more))
    monkeypatch.setattr(cgd.pipeline, 'train_rival', cgd.rivals.fit_rival)
    monkeypatch.setattr(import_module('cgd.train'), 'launch', lambda target, *args, env: call_by_name(target, *args))
    said = run(cfg)
    assert all(f' {m} ' in said for m in ('base', *cfg.methods))
    report = cfg.path('report.html').read_text()
    assert HALF.label in report and 'half a draft, then paid for brevity' in report and HALF.colour in report
    assert set(pd.read_csv(cfg.path('costs.csv')).method) == set(cfg.methods)
