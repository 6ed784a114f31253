"A critic that is paid: by the words of its verdict and by a frozen solver's tries, never for the answer itself; what it is paid for is what it learns, on a tiny model"
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

import cgd.pipeline
import cgd.rivals
from cgd.engines import open_engine
from cgd.generate import Engine, EngineConfig
from cgd.methods import METHODS
from cgd.models import fingerprint
from cgd.plan import Plan, RunConfig
from cgd.recipe import TrainConfig
from cgd.refcritic import _share, check_mix, gives_away, pay_refines, pay_verdict
from cgd.teacher import TeacherConfig
from cgd.rivals import REWARDS, RLConfig, _asking, _draw, _made_from, fit_rival
from cgd.store import Completion, Store, sessions
from cgd.train import fit
from cgd.trainer import read_losses
from cgd.views import Pairs, make_pair

CFG = RLConfig(grader='strict')


def trace(a, n=10, draft=None, **more):
    "A problem whose draft goes wrong at a + a"
    draft = draft or f'First, {a} + {a} = {2*a + 1}, and {2*a + 1} + {n} = {2*a + 1 + n}.'
    return dict(problem_id=f'p{a}-{n}', prompt=f'What is {a} plus {a} plus {n}?', reference=str(2*a + n), draft=draft, draft_grade='wrong', completion_finish='stop') | more


class Solver(Engine):
    "Right if and only if the critique names the first wrong equation of the draft; `shaky`: then at every second try"
    version = 'solver'

    def __init__(self, shaky=False):
        super().__init__('solver:', 'solver', EngineConfig())
        self.identity, self.asked, self.shaky = dict(kind='solver', shaky=shaky), [], shaky

    def run(self, missing):
        for key, request in missing.items():
            self.asked.append(request)
            text = request.messages[-1]['content']
            problem, draft, critique = (re.search(rf'<{part}>\n(.*?)\n</{part}>', text, re.S)[1] for part in ('problem', 'draft', 'critique'))
            wrong = next((m[0] for m in re.finditer(r'(\d+) \+ (\d+) = (\d+)', draft) if int(m[1]) + int(m[2]) != int(m[3])), None)
            solved = wrong is None or wrong in critique and not (self.shaky and request.sample % 2)
            answer = sum(map(int, re.findall(r'\d+', problem))) if solved else 0
            yield Completion(rf'\boxed{{{answer}}}', *(('too_long', 9, 0) if 'unreadable' in critique else ('stop', 9, 5)), key=key)


@pytest.fixture
def asked(tmp_path):
    with Store(tmp_path/'store.sqlite') as store: yield SimpleNamespace(student=Solver(), store=store)


NAMED, VAGUE, PRAISE = '{0} + {0} = {1} is off.\nConclusion: wrong', 'Some step is off.\nConclusion: wrong', 'All of it holds.\nConclusion: right'
def named(a): return NAMED.format(a, 2*a + 1)


@pytest.mark.parametrize('grade', ['right', 'wrong', 'no_answer', 'timeout'])
def test_a_verdict_is_paid_where_it_can_be_read_and_agrees(grade):
    "Traps: what cannot be read counts as right; what was cut off counts; what the draft says of itself counts"
    row = trace(2, draft_grade=grade)
    paid = lambda text, **more: pay_verdict([text], [row | more], CFG)
    assert (paid(PRAISE), paid(VAGUE)) == (([1.], [0.]) if grade == 'right' else ([0.], [1.]))
    for text in ('', 'Right or wrong, who knows.', 'Conclusion: right\nConclusion: wrong or right?', 'Conclusion:'): assert paid(text) == [0.], text
    for text in (PRAISE, VAGUE): assert paid(text, completion_finish='length') == [0.]
    assert paid(PRAISE, draft=f'It is 5.\n{PRAISE}') == paid(VAGUE, draft=f'It is 5.\n{VAGUE}') == [0.]
    assert paid(f'<think>{VAGUE}</think>\n{PRAISE}') == paid(PRAISE) and paid(f'<think>{PRAISE}\n{PRAISE}') == [0.]


def test_refinements_are_paid_by_what_the_solver_makes_of_the_critique(asked):
    texts, rows = [named(2), VAGUE, PRAISE, named(3), named(2)], [trace(2), trace(2), trace(2), trace(2), trace(3)]
    assert pay_refines(texts, rows, CFG, asked) == [1., 0., 0., 0., 0.]
    asks = [METHODS['cgd'].prompt(dict(problem=r['prompt'], draft=r['draft'], critique=t)) for t, r in zip(texts, rows) for _ in range(4)]
    assert [r.messages for r in asked.student.asked] == [[dict(role='user', content=text)] for text in asks]
    assert {(r.temperature, r.max_new_tokens) for r in asked.student.asked} == {(.7, 256)} and len({r.seed for r in asked.student.asked[:4]}) == 4
    assert pay_refines(texts[::-1], rows[::-1], CFG, asked) == [0., 0., 0., 0., 1.] and len(asked.student.asked) == 20   # nothing is asked twice
    assert [(s['stage'], s['requests'], s['completion_tokens']) for s in sessions(asked.store)] == [('refines', 20, 100)]
    asked.student = Solver(shaky=True)
    assert pay_refines([named(2)], [trace(2)], CFG, asked) == [.5]   # a mean, and no single try


def test_the_solver_may_write_as_much_as_the_critic_and_256_tokens_in_any_case(asked):
    for most in (24, 512): pay_refines([named(2)], [trace(2)], CFG.model_copy(update=dict(max_new_tokens=most)), asked)
    assert [r.max_new_tokens for r in asked.student.asked] == [256]*4 + [512]*4


def test_what_earns_no_refinement_is_not_tried(asked):
    "Traps: the answer in the critique; a text that was cut off; thoughts"
    row = trace(2)
    lost = {named(2) + ' It is 14.': {}, named(2): dict(completion_finish='length'), ' \n': {}, '': {}, f'<think>{named(2)}': {}, f'<think>{named(2)}</think>': {}}
    assert pay_refines(list(lost), [row | more for more in lost.values()], CFG, asked) == [0.]*6 and not asked.student.asked
    assert pay_refines([f'<think>It is 14.</think>{named(2)}'], [row], CFG, asked) == [1.]   # what it thinks reaches nobody
    done = trace(2, draft='2 + 2 = 4, and 4 + 10 = 14.', draft_grade='right')
    assert gives_away('4 + 10 = 14 holds.', row) and not gives_away('4 + 10 = 14 holds.', done)   # there the draft says it
    assert pay_refines(['4 + 10 = 14 holds.'], [done], CFG, asked) == [1.]


def test_a_prompt_that_is_too_long_for_the_solver_is_no_failure(asked):
    assert pay_refines(['unreadable', named(2)], [trace(2)]*2, CFG, asked) == [None, 1.]


def test_prompts_show_no_reference_and_every_draft_is_one(tiny_student):
    "Traps: the critic sees the answer; drafts of a problem are merged into one, as GRPO merges them"
    rows = [trace(2, reference='7654321', draft=f'It may be {k}.') for k in range(3)] + [trace(3, reference='7654321')]
    _, drawn, left_out = _draw(METHODS['refcritic'], rows, RLConfig(steps=2, prompts=2, rewards=METHODS['refcritic'].rewards), tiny_student, 'auto')
    assert {r['draft'] for r in drawn} == {r['draft'] for r in rows} and len(drawn) == 4 and not left_out
    for r in drawn:
        assert r['messages'] == [dict(role='user', content=METHODS['cft'].prompt(dict(problem=r['prompt'], draft=r['draft'])))]
        assert '7654321' not in str(cgd.rivals._for_trl(METHODS['refcritic'], [r])[0]) and r['reference'] == '7654321'


def test_a_training_says_whose_drafts_are_of_one_kind(capfd):
    assert check_mix(rows := [trace(2)]*10 + [trace(2, draft_grade='right')], None) is rows
    assert '10 of 11 drafts are wrong' in capfd.readouterr().err
    check_mix([trace(2)]*9 + [trace(2, draft_grade='right')], None)
    assert not capfd.readouterr().err


def test_the_solver_counts_where_it_is_asked(tiny_student, tiny_model, tmp_path):
    rows, method = [trace(2)], METHODS['refcritic']
    def made(student, **rewards): return _made_from(method, rows, RLConfig(rewards=rewards), tiny_student, 'auto', None, (student, {}))
    assert made(tiny_student, verdict=1., refines=1.) != made(tiny_model, verdict=1., refines=1.)
    assert made(tiny_student, verdict=1.) == made(tiny_model, verdict=1.)
    asked = lambda url: _made_from(METHODS['rlfr'], [r | dict(solution='') for r in rows], RLConfig(), tiny_student, 'auto', (f'openai:m@{url}', TeacherConfig(), {}), (tiny_student, {}))
    assert asked('http://127.0.0.1:1/v1') != asked('http://127.0.0.1:2/v1')   # another server is another teacher
    before, method = made(tiny_student, verdict=1.), replace(method, ask=f'{method.ask} Be brief.')
    assert made(tiny_student, verdict=1.) != before   # asked in other words
    with _asking(method, RLConfig(rewards=dict(verdict=1.)), tiny_student, tmp_path/'out', 'x', None) as nobody: assert nobody is None


def test_a_second_stage_asks_the_student_of_before_the_first(monkeypatch):
    "Trap: the critic that `cft` has made refines, and not the student whose drafts these are"
    seen = {}
    monkeypatch.setattr(cgd.pipeline, 'train_rival', lambda method, rows, cfg, base, out, **more: seen.update(more, base=base))
    monkeypatch.setattr(cgd.pipeline, 'make_whole', lambda plan, training: 'cft-merged')
    monkeypatch.setattr(cgd.pipeline, '_train_line', lambda *args: '')
    made = Plan(RunConfig(methods=('cft-then-refcritic',), engine=dict(thinking='off')))
    assert made.stages == {'draft', 'critique'} and [*made.trainings] == ['cft', 'cft-then-refcritic']
    cgd.pipeline._train_one(made, made.trainings['cft-then-refcritic'], SimpleNamespace(rows=dict(refcritic=[])))
    assert (seen['base'], seen['student'][0], seen['student'][1]['thinking']) == ('cft-merged', 'smollm2', 'off')   # as the run's student has it


ROWS = [{k: v for k, v in trace(2, n).items() if k != 'completion_finish'} for n in (10, 20, 30)]


@pytest.fixture(scope='module')
def critic(tiny_student, tmp_path_factory):
    "First stage: one that names the wrong equation, names another (in as many tokens: in a trial a shorter text that was paid alike lost to the longer one), or praises"
    texts = [(r, text) for r in ROWS for text in (named(2), named(3), PRAISE)]
    pairs = Pairs('cft', [make_pair('cft', dict(problem=r['prompt'], draft=r['draft']), text, f'{r["problem_id"]}-{i}') for i, (r, text) in enumerate(texts)])
    folder = tmp_path_factory.mktemp('first')/'cft'
    fit(pairs, TrainConfig(backend='trl', tuning='full', lr=5e-3, epochs=60, batch_size=9, device_batch_size=9, dtype='float32', save_steps=1000, schedule='constant'), tiny_student, folder)
    return str(folder)


@pytest.mark.parametrize('weight', [1., 0.])
def test_what_is_paid_is_what_it_learns(weight, critic, tiny_student, tmp_path, monkeypatch):
    "With weight on `refines` it comes to name the wrong equation; without, it comes to say wrong, and no more. The solver is the untrained student, opened to know it and to ask it, and stays what it was"
    opened, solver = [], Solver()
    monkeypatch.setattr(cgd.rivals, 'open_engine', lambda spec: opened.append(spec) or solver)
    monkeypatch.setattr(cgd.rivals, 'vllm_fault', lambda: 'vLLM would take longer to start')
    before = fingerprint(tiny_student)
    cfg = RLConfig(tuning='full', steps=24, prompts=3, n=8, device_batch_size=24, max_new_tokens=24, lr=3e-4, dtype='float32', save_steps=1000, rewards=dict(verdict=1., refines=weight))
    record = fit_rival('refcritic', ROWS, cfg, critic, tmp_path/'out', student=(tiny_student, {}))
    losses = read_losses(tmp_path/'out')
    verdict, refines = ([sum(r[f'reward_{c}'] for r in some)/len(some) for some in (losses[:2], losses[-4:])] for c in ('verdict', 'refines'))
    assert .4 < verdict[0] < .9 < verdict[1] and .03 < refines[0] < .3
    assert refines[1] > .85 if weight else max(r['reward_refines'] for r in losses) < .3
    assert [spec.partition(':')[2] for spec in opened] == [tiny_student]*2 and fingerprint(tiny_student) == before != record['base_fingerprint']
    assert [s['stage'] for s in record['asked']] == ['refines']*len(record['asked']) and sum(s['requests'] for s in record['asked']) == len(solver.asked) > 0


def test_a_solver_that_is_always_cut_off_says_nothing():
    cut, whole = Completion('', 'length', 0, 0), Completion('', 'stop', 0, 0)
    assert _share([(cut, 'wrong')]*4) is None
    assert _share([(cut, 'wrong')]*3 + [(whole, 'right')]) == .25
