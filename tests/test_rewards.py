"What answers are paid for: an edit of that very answer, a judge who may abstain, a gate of ranks; sums on a real step of GRPO; a run with all of it, and its ledger"
import shutil
from importlib import import_module

import pandas as pd
import pytest

import cgd.pipeline
import cgd.rivals
from cgd.core import CgdError
from cgd.data import load_problems
from cgd.evaluate import EvalConfig
from cgd.generate import Engine, EngineConfig
from cgd.grade import grade
from cgd.methods import METHODS, ViewConfig
from cgd.oracle import OracleTeacher
from cgd.pipeline import run
from cgd.plan import Plan, RunConfig, plan
from cgd.process import call_by_name
from cgd.recipe import TrainConfig
from cgd.rewards import nearness, pay_closeness, pay_closeness_stored, pay_compressed, pay_judged, pay_short, right_then_compressed, right_then_short
from cgd.feedback import check_feedback
from cgd.rivals import REWARDS, RLConfig, Reward, check_asked, fit_rival, with_reads
from cgd.store import Completion, SampleConfig, Store, sessions
from cgd.teacher import LMTeacher, TeacherConfig
from cgd.train import fit
from cgd.trainer import read_losses
from cgd.views import filter_rows
from test_critique_grpo import write_by

PROBLEM = dict(problem_id='p', prompt='What is 3 * 4 + 5?', reference='17', solution='3 * 4 = 12\n12 + 5 = 17\nThe answer is 17.', direct='3 * 4 = 12\n12 + 5 = 17\nThe answer is \\boxed{17}.',
               draft='A stored draft.', refinement='A stored refinement.')
RIGHT, WRONG = 'First 3 * 4 = 12.\nThen 12 + 5 = 17.\n\\boxed{17}', 'First 3 * 4 = 12.\nThen 12 + 5 = 18.\n\\boxed{18}'
SMALL = RLConfig(steps=1, prompts=1, n=4, device_batch_size=4, max_new_tokens=8, dtype='float32', save_steps=100)


class Scripted(Engine):
    "Says what a function says of a message, and keeps what it was asked"
    version = 'scripted'

    def __init__(self, says):
        super().__init__('scripted:m', 'm', EngineConfig())
        self.says, self.identity, self.asked = says, dict(kind='scripted'), []

    def run(self, missing):
        for key, request in missing.items():
            self.asked.append(request.messages[-1]['content'])
            yield Completion(*self.says(self.asked[-1]), 10, 5, key=key)


class Asking:
    "Stands for `Asked`: a teacher that is there already, and a store"
    def __init__(self, teacher, store): self.teacher, self.store = teacher, store


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path/'store.sqlite') as store: yield store


def test_the_edit_is_of_that_very_answer(store):
    "Traps: the stored draft is edited in its place, or one edit serves all answers to a problem; a ratio of matching blocks is no edit distance"
    assert nearness('a b c d', 'd a b c') == .5
    texts = [RIGHT, WRONG, 'Nothing of this.', RIGHT]
    engine = Scripted(lambda asked: (next(t for t in texts if t in asked).replace('18', '17'), 'stop'))
    assert pay_closeness(texts, [PROBLEM]*4, SMALL, Asking(LMTeacher(engine, TeacherConfig()), store)) == [1, pytest.approx(1 - 2/13), 1, 1]
    assert len(engine.asked) == 3 and not any(PROBLEM['draft'] in asked or PROBLEM['refinement'] in asked for asked in engine.asked)   # the same answer is asked about once
    assert [(s['stage'], s['requests']) for s in sessions(store)] == [('edit', 3)]
    assert pay_closeness(texts, [PROBLEM]*4, SMALL, Asking(OracleTeacher(), store))[:2] == [1, pytest.approx(1 - 2/13)]


def test_an_edit_that_cannot_be_read_abstains(store):
    ends = {RIGHT: (RIGHT, 'length'), WRONG: (' ', 'stop'), 'Other.': (RIGHT, 'stop')}
    engine = Scripted(lambda asked: next(said for text, said in ends.items() if text in asked))
    assert pay_closeness([*ends], [PROBLEM]*3, SMALL, Asking(LMTeacher(engine, TeacherConfig()), store)) == [None, None, 0]


def test_the_gold_is_shown_only_if_it_may_be(store):
    engine = Scripted(lambda asked: ('{"truthful": true, "mark": 5}', 'stop'))
    for with_reference in (False, True):
        teacher = LMTeacher(engine, TeacherConfig(with_reference=with_reference))
        assert pay_judged([WRONG], [PROBLEM], SMALL, Asking(teacher, store)) == [.5]
        assert (PROBLEM['solution'] in engine.asked[-1]) == with_reference
    with pytest.raises(CgdError, match='neither solution nor reference'): pay_judged([WRONG], [PROBLEM | dict(reference=None, solution=None)], SMALL, Asking(teacher, store))


def test_other_words_lose_nothing_by_their_own_edit():
    "Real problems: the solution in other words, each step kept. Against the stored refinement of some draft it loses"
    problems = load_problems('train', limit=40).rows
    said = ['\n'.join([*(f'Here I find that {step}' for step in p['solution'].split('\n')[:-1]), f'So what was asked for is \\boxed{{{p["reference"]}}}.']) for p in problems]
    rows = [p | dict(refinement=p['solution'].replace(f'{p["reference"]}.', f'\\boxed{{{p["reference"]}}}.')) for p in problems]
    assert all(grade(p['reference'], text).outcome == 'right' for p, text in zip(problems, said))
    assert pay_closeness(said, rows, SMALL, Asking(OracleTeacher(), None)) == [1]*40
    assert max(pay_closeness_stored(said, rows, SMALL)) < .8


def test_a_group_of_wrong_answers_is_told_apart():
    "What the grader pays alike"
    texts = [WRONG, 'First 3 * 4 = 13.\nThen 13 + 5 = 18.\n\\boxed{18}', 'I do not know.', '']
    paid = pay_closeness(texts, [PROBLEM]*4, SMALL, Asking(OracleTeacher(), None))
    assert paid[0] > paid[1] > paid[2] == paid[3] == 0 and {grade('17', t).outcome == 'right' for t in texts} == {False}


def test_form_is_a_gate():
    "Trap: form as one more addition, so that a wrong answer of the right form is paid better than a wrong one without"
    no_form, one_line = '17 it is: \\boxed{17}', RIGHT.replace('\n', ' ')
    for pay, least in ((pay_short, .9), (pay_compressed, .4)):
        wrong, formless, line, right = pay([WRONG, no_form, one_line, RIGHT], [PROBLEM]*4, SMALL)
        assert wrong == pay(['18'], [PROBLEM], SMALL)[0] == -2 and formless == line == -1 and right > least
    ranks = [right_then_short('wrong', True, 1, 1, 9, 999), right_then_short('right', False, 1, 1, 9, 999), right_then_short('right', True, 99, 9999, 1, 1)]
    assert ranks == [-2, -1, 0] and right_then_compressed('right', True, 9999, 1) == .5


def test_steps_are_lines_whatever_they_are_called():
    "Trap: a pattern such as 'Step 1' is counted, wherever and however often it stands"
    plain, named = RIGHT, RIGHT.replace('First', 'Step 1: Step 1: Step 1:')
    four = '\n'.join(f'Step {i}: a b c d e f g h i j k l m' for i in range(1, 5))   # two more than theirs: the bonus for fewer steps is not at its most
    paid = pay_short([plain, named], [PROBLEM | dict(direct=four + '\n\\boxed{17}')]*2, SMALL)
    assert paid[0] - paid[1] == pytest.approx(.001*5)   # five words more, and no step


def test_what_a_reward_reads_is_made():
    "At plan time"
    def stages(**cfg): return Plan(RunConfig(**cfg)).stages
    assert stages(methods=('grpo',)) == set() and 'refine' in stages(methods=('grpo',), rl=dict(rewards=dict(closeness_stored=1))) and stages(methods=('complete_short',)) == {'direct'}
    assert stages(methods=('sdft',), rl=dict(rewards=dict(right_then_short=1))) == stages(methods=('sdft',))   # it is not paid
    p = plan(RunConfig(methods=('reorder-then-complete_short', 'compress'), n_problems=8), 'pairs')
    assert [*p.trainings] == ['reorder', 'reorder-then-complete_short', 'compress'] and p.stages == {'direct'} and p.judge is None
    assert p.trainings['reorder-then-complete_short'].first.name == 'reorder'
    assert Plan(RunConfig(methods=('rlfr',), judge='openai:m@http://a/v1', teach=dict(max_new_tokens=64))).teachers[0].settings == TeacherConfig()   # what is for the judge is not the oracle's
    with pytest.raises(CgdError, match='no reward'): plan(RunConfig(methods=('grpo',), rl=dict(rewards=dict(speed=1)), n_problems=8))


def pay_kept(texts, rows, *rest): return [float(row['draft'] in text) for text, row in zip(texts, rows)]

pay_kept.reads = 'draft',   # a reward of one's own says what it reads


def test_a_reward_of_ones_own_gets_the_columns_that_it_names():
    name, method = f'{__name__}:pay_kept', METHODS['grpo']
    cfg = SMALL.model_copy(update=dict(rewards={name: 1.}))
    assert Plan(RunConfig(methods=('grpo',), rl=dict(rewards={name: 1}))).stages == {'draft'}
    row = cgd.rivals._rollout_row(with_reads(method, cfg), PROBLEM, cfg)
    assert row['draft'] == PROBLEM['draft'] and 'direct' not in row
    pay = cgd.rivals._paying(name, [row], cfg, None, {1})
    assert pay([[dict(content='It is 17. A stored draft.')], [dict(content='17')]], [0, 0], [[1], [1]]) == [1., 0.]


def test_whom_it_can_ask(tmp_path):
    for changed in (dict(methods=('rlerr',)), dict(methods=('grpo',), rl=dict(rewards=dict(judged=1, right=1))), dict(methods=('rlerr',), judge='oracle', teacher='openai:m@http://a/v1')):
        with pytest.raises(CgdError, match='the oracle teacher has none; name a language model'): plan(RunConfig(n_problems=8, **changed), 'pairs')
    plan(RunConfig(n_problems=8, methods=('rlerr',), judge='openai:m@http://a/v1'), 'pairs')
    with pytest.raises(CgdError, match='the oracle teacher has none'): check_asked(METHODS['rlerr'], SMALL, 'oracle')
    check_asked(METHODS['rlfr'], SMALL, 'oracle')
    for name, what in dict(rlerr='an opinion', rlfr='an edit').items():   # the expert knows one way to be asked
        with pytest.raises(CgdError, match=f'{what}, and the expert teacher has none'): check_asked(METHODS[name], SMALL, 'expert')
    with pytest.raises(CgdError, match='rewards'): RLConfig.make(dict(rewards=dict(right=float('nan'))))
    with pytest.raises(CgdError, match='rewards: right has no positive weight'): check_feedback(RLConfig(rewards=dict(right=-1.)))
    bare = tmp_path/'bare.jsonl'
    bare.write_text('{"prompt": "What is 2 + 3?", "reference": "5"}\n')
    with pytest.raises(CgdError, match='no solution, which the oracle teacher needs'): plan(RunConfig(problems=str(bare), methods=('rlfr',), judge='oracle', teacher='openai:m@http://a/v1'), 'pairs')


def test_a_filter_of_targets_asks_nothing_of_methods_without():
    "Trap: a method that learns from its own answers has no target, which is then graded neither right nor wrong, and loses all rows"
    row = PROBLEM | dict(row_id='a', draft_grade='wrong', verdict='wrong', direct_grade='right', critique='No.')
    assert [len(filter_rows([row], m, ViewConfig(only_right=True))[0]) for m in ('sdft', 'rlfr_stored', 'complete_short')] == [1, 1, 1]
    assert filter_rows([row | dict(direct_grade='wrong')], 'complete_short') == ([], {'direct not right': 1})


MARKS = .4, .6, .5, None


@pytest.fixture
def advantages(monkeypatch):
    "Of each update"
    kept = []
    import trl
    theirs = trl.GRPOTrainer._generate_and_score_completions

    def look(self, inputs):
        kept.append((made := theirs(self, inputs))['advantages'].tolist())
        return made
    monkeypatch.setattr(trl.GRPOTrainer, '_generate_and_score_completions', look)
    return kept


@pytest.fixture
def two_rewards(monkeypatch, advantages):
    "All have the form, and a judge's last reply cannot be read; which answers got what"
    monkeypatch.setitem(REWARDS, 'form', Reward('All have it.', lambda texts, *rest: [1.]*len(texts)))
    monkeypatch.setitem(REWARDS, 'judge', Reward('Some.', lambda texts, *rest: [*MARKS]))
    return advantages


def paid(tiny_model, out, **rewards):
    fit_rival('grpo', [PROBLEM], SMALL.model_copy(update=dict(rewards=rewards)), tiny_model, out)
    return read_losses(out)[0]


def test_the_total_is_the_weighted_sum_of_its_parts(two_rewards, tiny_model, tmp_path, monkeypatch):
    "On a real step of GRPO. Trap: TRL takes None for 0 where another reward speaks"
    line = paid(tiny_model, tmp_path/'ours', form=2., judge=.5)
    assert line['reward_form'] == 1 and line['reward_judge'] == pytest.approx(.5) and line['reward'] == pytest.approx(2*1 + .5*.5)
    assert sorted(two_rewards[0])[1:3] == pytest.approx([0, 0], abs=1e-5) and sum(two_rewards[0]) == pytest.approx(0, abs=1e-4)   # of .5, the mean, and of None
    monkeypatch.setattr(cgd.rivals, '_abstaining', lambda kind: kind)
    alone = paid(tiny_model, tmp_path/'alone', form=2., judge=.5)
    assert alone['reward'] == pytest.approx(2 + .5*(.4 + .6 + .5)/4) and alone['reward_judge'] == pytest.approx(.5)   # the parts do not add up to it
    assert sum(a < -1 for a in two_rewards[1]) == 1   # the answer that nobody could judge is the worst


def test_rlfr_divides_by_the_spread_of_the_whole_batch(advantages, tiny_model, tmp_path, monkeypatch):
    "Trap: TRL's default divides by that of each group, where a small difference counts as much as a large one"
    monkeypatch.setattr(cgd.rivals, 'vllm_fault', lambda: 'it is not asked here')   # what is written does not count
    monkeypatch.setitem(REWARDS, 'given', Reward('As told.', lambda texts, *rest: [.4, .6]*2 + [0., 1.]*2))
    rows = [PROBLEM, PROBLEM | dict(problem_id='q', prompt='What is 1 + 1?')]
    for name in ('rlfr', 'grpo'): fit_rival(name, rows, SMALL.model_copy(update=dict(rewards=dict(given=1.), prompts=2)), tiny_model, tmp_path/name)
    (ours, theirs), signs = advantages, [-1, 1]*4
    assert [a/ours[1] for a in ours] == pytest.approx([s*size for s, size in zip(signs, [1]*4 + [5]*4)], rel=1e-3) and ours[1] > .1
    assert [a/theirs[1] for a in theirs] == pytest.approx(signs, rel=1e-2)


def test_closeness_teaches_where_all_answers_are_wrong(tiny_student, tmp_path, monkeypatch):
    "By the oracle's edits, one update of the same four answers: GRPO by the grader is idle"
    tries = [WRONG, 'I do not know.']
    write_by(monkeypatch, lambda text, refines, i: tries[i % 2])
    cfg = SMALL.model_copy(update=dict(max_new_tokens=64))
    records = [fit_rival(name, [PROBLEM], cfg, tiny_student, tmp_path/name, teacher=('oracle', TeacherConfig(), {})) for name in ('grpo', 'rlfr')]
    assert [r['idle_steps'] for r in records] == [1, 0] and [r['rewards'] for r in records] == [[0.], [pytest.approx((1 - 2/13)/2)]]


def test_an_update_in_which_all_abstain_teaches_nothing_and_is_kept(tiny_model, tmp_path):
    "A tiny random judge says nothing that can be read"
    record = fit_rival('rlerr', [PROBLEM], SMALL, tiny_model, tmp_path/'out', teacher=(f'hf:{tiny_model}', TeacherConfig(max_new_tokens=4), {}))
    line, = read_losses(tmp_path/'out')
    assert record['rewards'] == [None] and record['idle_steps'] == 1 and line['reward'] != line['reward'] and line['loss'] == 0
    assert [(a['stage'], a['requests'] > 0) for a in record['asked']] == [('mark', True)]


def test_a_group_that_teaches_nothing_is_not_read_again(tiny_model, tmp_path, monkeypatch):
    "One group of three has unlike rewards: weights as if all were learnt. Trap: what keeps its distance learns from every group"
    from safetensors.torch import load_file
    monkeypatch.setitem(REWARDS, 'one', Reward('Some.', lambda texts, *rest: [1., 0., 0., 1.] + [0.]*4 + [1.]*4))
    rows = [PROBLEM | dict(problem_id=i, prompt=f'What is {i}?') for i in 'abc']

    def learn(name, **more):
        cfg = SMALL.model_copy(update=dict(rewards=dict(one=1.), prompts=3, steps=2, tuning='full') | more)
        record = fit_rival('grpo', rows, cfg, tiny_model, tmp_path/name)
        return record, load_file(tmp_path/name/'model.safetensors')
    (spared, ours), (far, _) = learn('spared'), learn('far', beta=.1)
    assert .5*spared['tokens'] < spared['skipped_tokens'] < .8*spared['tokens'] and spared['idle_steps'] == far['skipped_tokens'] == 0
    monkeypatch.setattr(cgd.rivals, '_sparing', lambda kind: kind)
    learnt, theirs = learn('learnt')
    assert 'skipped_tokens' not in learnt and [r['loss'] for r in read_losses(tmp_path/'spared')] == [r['loss'] for r in read_losses(tmp_path/'learnt')]
    assert all((ours[k] == theirs[k]).all() for k in theirs)


@pytest.fixture(scope='module')
def finished(tiny_student, tmp_path_factory):
    "A run in this process: two stages of BRIDGE in a row, and a method that asks a model which is not the run's teacher"
    folder = tmp_path_factory.mktemp('runs')
    judge = shutil.copytree(tiny_student, folder/'judge')
    cfg = RunConfig(name='rewards', folder=str(folder), student=tiny_student, student_engine='hf', adapters='serve', n_problems=6, methods=('reorder-then-complete_short', 'rlfr'), benchmarks=('test:2',),
                    judge=f'hf:{judge}', teach=dict(max_new_tokens=8), draft=SampleConfig(max_new_tokens=8), eval=EvalConfig(max_new_tokens=8), train=TrainConfig(backend='trl', epochs=1, batch_size=8, device_batch_size=8),
                    rl=RLConfig(steps=2, prompts=2, n=2, device_batch_size=4, max_new_tokens=8, dtype='float32', save_steps=100))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(cgd.pipeline, 'train', lambda *args, **more: fit(*args, **more))
        m.setattr(cgd.pipeline, 'train_rival', fit_rival)
        m.setattr(import_module('cgd.train'), 'launch', lambda target, *args, env: call_by_name(target, *args))
        return cfg, run(cfg)


def test_a_run_with_rewards(finished):
    cfg, said = finished
    losses = pd.read_csv(cfg.path('losses.csv'))
    assert {*losses.method} == {*cfg.methods} and cfg.path('models', 'reorder', 'train.json').exists()
    assert {*read_losses(cfg.path('models', 'rlfr'))[0]} >= {'reward', 'reward_closeness', 'reward_right'}
    assert {r['reward'] for r in read_losses(cfg.path('models', 'reorder-then-complete_short'))} == {-2.}   # random weights get nothing right
    assert all(f' {m} ' in said for m in ('base', *cfg.methods))


def test_whoever_is_asked_is_in_the_ledger(finished):
    cfg, _ = finished
    lines = pd.read_csv(cfg.path('ledger.csv'), keep_default_na=False).set_index(['method', 'stage']).sort_index()
    asked = lines.loc[('rlfr', 'train')].set_index('who')
    assert {*asked.index} == {'student', 'teacher'} and 1 <= int(asked.requests['teacher']) <= 8 and float(asked.flops['teacher']) > 0
    assert list(lines.loc[[('reorder-then-complete_short', 'train')]].who) == ['student']

