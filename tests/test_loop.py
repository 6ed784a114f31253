"The loop: second tries go through the store and are measured fairly; own critiques and own answers are kept by their grades; a critic of its own, which may end an answer"
import json
import shutil

import pytest

from cgd.core import CgdError, read_table, write_atomic, write_table
from cgd.costs import method_costs
from cgd.engines import open_engine
from cgd.estimate import estimate_run
from cgd.evaluate import EvalConfig, self_refine
from cgd.generate import Engine, EngineConfig
from cgd.loop import reflection_rate, retry, turned
from cgd.methods import METHODS, ViewConfig
from cgd.pipeline import _HEADINGS, open_student, run
from cgd.plan import Plan, RunConfig
from cgd.results import _trace_tables, run_ledger
from cgd.store import Completion, SampleConfig, Store, sessions
from cgd.views import build, filter_rows

PROBLEM = dict(problem_id='p', prompt='What is 3 * 4 + 5?', reference='17', solution='3 * 4 = 12\n12 + 5 = 17\nThe answer is 17.')
RIGHT, WRONG = '3 * 4 = 12, and 12 + 5 = 17. The answer is 17.', '3 * 4 = 12, and 12 + 5 = 18. The answer is 18.'
DRAWN = SampleConfig(n=4, temperature=1., max_new_tokens=32)


def row(id, **more):
    "A trace of the student, who is its own teacher; its draft is wrong and all else is right"
    own = dict(row_id=str(id), sample=0, student='student', teacher='student', preset='corrected', draft=WRONG, draft_finish='stop', draft_grade='wrong', critique='12 + 5 is 17. So \\boxed{17}.\nConclusion: wrong',
               critique_finish='stop', critique_grade='right', verdict='wrong', retry=RIGHT, retry_finish='stop', retry_grade='right', help=.5)
    return PROBLEM | own | more


def why(method, changes, **cfg): return next(iter(filter_rows([row(0, **changes)], method, ViewConfig(**cfg))[1]), None)


class Scripted(Engine):
    "Says what a function says, ten tokens a word, and keeps what it was asked"
    version = 'scripted'

    def __init__(self, says, name='student'):
        super().__init__(f'scripted:{name}', name, EngineConfig())
        self.says, self.identity, self.asked = says, dict(kind='scripted', name=name), []

    def run(self, missing):
        for key, request in missing.items():
            self.asked.append(request)
            text = self.says(request)
            ended = ('stop', 100, 10*len(text.split())) if text else ('too_long', 100, 0)
            yield Completion(text or '', *ended, key=key)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path/'store.sqlite') as store: yield store


def test_a_try_is_asked_as_cgd_asks_and_is_in_the_ledger(store):
    student = Scripted(lambda r: RIGHT if r.sample % 2 else WRONG)
    rows = [row(i, sample=i) for i in range(2)]
    done = retry(rows, student, store, DRAWN)
    assert [m['content'] for r in student.asked for m in r.messages] == [METHODS['cgd'].prompt(dict(problem=r['prompt'], draft=r['draft'], critique=r['critique'].strip())) for r in rows for _ in range(4)]
    assert [(s['stage'], s['requests']) for s in sessions(store)] == [('retry', 8)]
    assert retry(rows, student, store, DRAWN) == done and len(student.asked) == 8   # asked once
    assert all((r['retry'], r['retry_grade'], r['retry_finish'], r['help']) == (RIGHT, 'right', 'stop', .5) for r in done) and len({r['retry_key'] for r in done}) == 2


def test_help_compares_with_all_drafts_each_counted_once(store):
    "Trap: with the reviewed draft alone, or with the wrong ones, any second try seems to help; with rows in place of drafts, several teachers weigh double"
    student = Scripted(lambda r: RIGHT if r.sample % 2 else WRONG)   # half are right, whatever it reads
    grades = ['right', 'right', 'wrong', 'wrong']
    rows = [row(f'{teacher}{i}', sample=i, teacher=teacher, draft_grade=g) for i, g in enumerate(grades) for teacher in ('a', *['b']*(g == 'right'))]
    assert [r['help'] for r in retry(rows, student, store, DRAWN)] == [0]*6
    assert [r['help'] for r in retry([row(0), row(1, problem_id='q', draft_grade='right')], student, store, DRAWN)] == [.5, -.5]


def test_help_is_not_measured_where_it_cannot_be(store):
    student = Scripted(lambda r: None if 'too long' in r.messages[0]['content'] else RIGHT)
    rows = [row(0, problem_id='a', draft_grade=None, reference=None), row(1, problem_id='b', student='another'), row(2, problem_id='c', critique='this is too long'), row(3, problem_id='d', critique=' ')]
    done = retry(rows, student, store, DRAWN)
    assert [r['help'] for r in done] == [None]*4 and [r['retry_grade'] for r in done] == [None, 'right', 'no_answer', None] and [r['retry_finish'] for r in done] == ['stop', 'stop', 'too_long', 'no critique']


def test_own_critiques_are_kept_by_the_answer_they_end_in():
    "Traps: the verdict decides; a grade that is missing counts as right; another model's critiques"
    for verdict in ('right', 'wrong', 'unparsed'):
        kept = [why('scft', dict(verdict=verdict, critique_grade=grade)) for grade in ('right', 'wrong', 'no_answer', None)]
        assert kept == ['mix of right and wrong'] + ['critique not right']*2 + ['critique not graded']
        assert why('scft', dict(verdict=verdict), right_share=0, right_share_of='draft_grade') is None
    assert why('scft', dict(teacher='oracle teacher')) == 'critique by another model' and why('scft', dict(critique_finish='length')) == 'critique cut off'
    with pytest.raises(CgdError, match='no column `critique_grade`'): filter_rows([{k: v for k, v in row(0).items() if k != 'critique_grade'}], 'scft')
    with pytest.raises(CgdError, match='leave no_leak out'): build([row(0)], 'scft', ViewConfig(no_leak=True))
    assert '\\boxed{}' in METHODS['scft'].ask and METHODS['cft'].ask.split('End with')[1] in METHODS['scft'].ask


@pytest.mark.parametrize('right, wrong, kept', [(3, 9, (3, 6)), (9, 10, (5, 10)), (5, 10, (5, 10)), (7, 14, (7, 14)), (0, 4, (0, 0))])
def test_two_wrong_drafts_to_one_right(right, wrong, kept):
    "By the draft's grade, whatever the verdict; drafts without a grade are neither"
    grades = ['right']*right + ['wrong', 'no_answer']*(wrong//2) + ['wrong']*(wrong % 2) + [None]*5
    rows = [row(i, draft_grade=g, verdict='right') for i, g in enumerate(grades)]
    found = [r['draft_grade'] for r in filter_rows(rows, 'scft')[0]]
    assert (found.count('right'), len(found) - found.count('right')) == kept and None not in found


def test_answers_are_drafts_that_are_right_or_else_tries():
    "Traps: right drafts are thrown away; a missing grade counts as right; several tries of one critique"
    draft_right, neither = dict(draft=RIGHT, draft_grade='right', retry='', retry_grade=None), dict(retry=WRONG, retry_grade='wrong')
    made = build([row(0, **draft_right), row(1), row(2, **neither), row(3, draft_grade=None, **neither), row(4, retry_grade=None)], 'loop')
    assert [(r['row_id'], r['completion'][0]['content']) for r in made.rows] == [('0', RIGHT), ('1', RIGHT)]
    assert made.dropped == {'neither draft nor retry is right': 2, 'draft not graded': 1}
    assert all(r['prompt'] == build([row(0)], 'sft').rows[0]['prompt'] for r in made.rows)   # the problem alone
    assert why('loop', dict(retry_finish='length')) == 'neither draft nor retry is right' and why('loop', dict(retry_finish='length'), keep_truncated=True) is None
    assert why('loop', {}, only_right=True) is None and why('loop', draft_right, no_leak=True) is None and why('loop', {}, no_leak=True) == 'critique states the answer'
    with pytest.raises(CgdError, match='no column `retry_grade`'): build([{k: v for k, v in row(0).items() if k != 'retry_grade'}], 'loop')


def test_a_try_that_jumps_to_the_answer_is_left_out():
    "Seven numerals in the solution, and in the draft: five are wanted"
    assert [why('loop', dict(retry=text)) for text in ('\\boxed{17}', '3 * 4 = 12, so 17', '3 * 4 = 12, and 5 more: 17')] == ['retry skips steps']*2 + [None]
    assert why('loop', dict(retry='\\boxed{17}', draft='It is 18.')) is None          # the draft has no steps either
    assert why('loop', dict(retry='\\boxed{17}', solution=None)) == 'retry skips steps'   # without a solution the draft alone tells


def test_a_critic_learns_from_what_has_helped():
    "Trap: help that was not measured counts as enough"
    assert [why('cft', dict(help=h), min_help=.25) for h in (.5, .25, 0., -1., None)] == [None, None] + ['critique helps too little']*2 + ['help not measured']
    assert why('sft', dict(help=None), min_help=.25) is None   # it shows and learns no critique
    with pytest.raises(CgdError, match='no column `help`'): filter_rows([{k: v for k, v in row(0).items() if k != 'help'}], 'cft', ViewConfig(min_help=0))


def judge(request):
    "Calls the answer to the first problem right, and that of the second after a round"
    text = request.messages[0]['content']
    return f'So it is.\nConclusion: {"right" if "1 + 1" in text or "better" in text and "2 + 2" in text else "wrong"}'


def answer(request):
    text = request.messages[0]['content']
    if 'Check the draft' in text: return 'My own view.\nConclusion: wrong'
    return 'A better one: \\boxed{4}' if 'critique' in text else 'A first one: \\boxed{3}'


SUMS = [dict(problem_id=f'{i}', prompt=f'What is {i} + {i}?', reference=str(2*i)) for i in (1, 2, 3)]


def test_a_critic_may_end_an_answer(store):
    "Trap: a stopped answer is asked about again, or its critic costs nothing"
    student, critic = Scripted(answer), Scripted(judge, 'critic')
    tables = self_refine(student, SUMS, EvalConfig(), store, rounds=3, critic=critic, stop=True)
    first, *later = ({r['id']: r for r in table} for table in tables)
    assert [[r['id'] for r in table] for table in tables] == [['1', '2', '3']]*4
    assert [later[0]['1'][c] for c in ('completion', 'strict', 'finish_reason', 'key', 'completion_tokens')] == [first['1'][c] for c in ('completion', 'strict', 'finish_reason', 'key', 'completion_tokens')]
    assert [t['1']['spent'] for t in (first, *later)] == [40, 90, 90, 90] and [t['2']['spent'] for t in (first, *later)] == [40, 130, 180, 180]
    assert [t['3']['spent'] for t in (first, *later)] == [40, 130, 220, 310] and [[r['stopped'] for r in t] for t in tables] == [[False]*3, [True, False, False]] + [[True, True, False]]*2
    assert len(critic.asked) == 5 and len(student.asked) == 6   # of the third problem the last round asks what is known already


def test_the_model_as_its_own_critic_is_what_it_was(store):
    student = Scripted(answer)
    plain = self_refine(student, SUMS, EvalConfig(), store, rounds=2)
    assert self_refine(student, SUMS, EvalConfig(), store, rounds=2, critic=student) == plain and 'stopped' not in plain[-1][0]
    again = self_refine(student, SUMS, EvalConfig(), store, rounds=2, critic=student, stop=True)   # it never says right
    assert [[{k: v for k, v in r.items() if k != 'stopped'} for r in t] for t in again] == plain


def test_what_turned_adds_up():
    def records(outcomes): return [dict(id=str(i // 2), sample=i % 2, strict=o) for i, o in enumerate(outcomes)]
    before, after = records(['wrong', 'no_answer', 'right', 'right', 'wrong', 'right']), records(['right', 'wrong', 'right', 'wrong', 'right', 'right'])
    found = {r['measure']: (r['n'], r['value']) for r in turned(before, after)}
    assert found == dict(wrong_to_right=(3, pytest.approx(1/3)), right_to_wrong=(3, pytest.approx(1/6)), fix_rate=(2, .75), break_rate=(2, .25))
    assert found['wrong_to_right'][1] - found['right_to_wrong'][1] == pytest.approx(4/6 - 3/6)   # what accuracy gains
    with pytest.raises(CgdError, match='not the same answers'): turned(before, after[1:])


def test_reflections_are_counted_as_words():
    texts = [('Wait, let me check. It is 4.', 'right'), ('Awaiting the cheque, it is 5.', 'wrong'), ('Hmm. Wait. Actually 4.', 'wrong')]
    found = reflection_rate([dict(completion=t, strict=o) for t, o in texts])
    assert found == dict(n=3, mean=5/3, effective=2/5) and reflection_rate([dict(completion='4', strict='right')])['effective'] is None


@pytest.fixture(scope='module')
def cfg(tiny_student, tmp_path_factory):
    "A critic's training set, up to its pairs"
    cfg = RunConfig(name='loop', folder=str(tmp_path_factory.mktemp('loop')), student=tiny_student, student_engine='hf', n_problems=3, methods=('cft',), benchmarks=('test:2',),
                    draft=SampleConfig(n=2, temperature=1., max_new_tokens=8), views=dict(min_help=0, keep_truncated=True), validation='val:1')
    run(cfg, 'pairs')
    return cfg


def test_a_filter_by_help_makes_the_stage_a_part_of_the_run(cfg, capsys):
    rows = read_table(cfg.path('traces.parquet'))
    assert [r['help'] for r in rows] == [0]*8 and {r['retry_finish'] for r in rows} <= {'stop', 'length'} and len(read_table(cfg.path('pairs', 'cft.jsonl'))) == 6
    line, = [r for r in run_ledger(Plan(cfg), rows) if r['stage'] == 'retry']
    assert (line['method'], line['who'], line['requests']) == ('', 'student', 16)
    run(cfg, 'pairs')
    assert 'retry 8: help +0 points' in capsys.readouterr().out
    with Store(cfg.path('store.sqlite')) as store: assert sum(s['requests'] for s in sessions(store) if s['stage'] == 'retry') == 16   # not asked again


def test_the_estimate_knows_what_is_there(cfg):
    line, = [r for r in estimate_run(Plan(cfg), 'pairs', open_student, []) if r['stage'] == 'retry']
    assert (line['rows'], line['held'], line['left']) == (16, 16, 0)
    more, = [r for r in estimate_run(Plan(cfg.model_copy(update=dict(n_problems=5))), 'pairs', open_student, []) if r['stage'] == 'retry']
    assert (more['rows'], more['held'], more['left']) == (24, 16, 8)


def test_how_much_critiques_have_helped_is_a_table_of_the_run(cfg):
    rows = _trace_tables(Plan(cfg), read_table(cfg.path('traces.parquet')))['help']
    assert [(r['preset'], r['critiques'], r['n'], r['value']) for r in rows] == [('withheld', 'all', 4, 0), ('withheld', 'wrong drafts', 4, 0), ('withheld', 'right drafts', 0, None), ('withheld', 'answer not stated', 4, 0)]
    assert 'help' in _HEADINGS and _trace_tables(Plan(cfg), [{k: v for k, v in r.items() if k != 'help'} for r in read_table(cfg.path('traces.parquet'))])['help'] == []


def test_a_run_that_filters_by_help_charges_its_retries_to_who_learns_critiques(cfg):
    "In the run's own table of costs"
    plan = Plan(cfg)
    done = dict(view='cft', pairs=6, tokens=60, target_tokens=30, seconds=1., device='cpu', config=dict(epochs=1, tuning='full'))
    for m in ('cft', 'sft'): write_atomic(cfg.path('models', m, 'train.json'), json.dumps(done | dict(view=m)))
    try: rows = run_ledger(plan, read_table(cfg.path('traces.parquet')))
    finally: shutil.rmtree(cfg.path('models'))
    tried, = [r['flops'] for r in rows if r['stage'] == 'retry']
    costs = {r['method']: r['flops'] for r in method_costs(rows, views=cfg.views)}
    assert tried > 0 and costs['cft'] - costs['sft'] > tried == costs['cft'] - {r['method']: r['flops'] for r in method_costs(rows)}['cft']


def test_right_drafts_of_a_table_are_learnt(tiny_student, tmp_path):
    "The tiny student gets nothing right itself"
    given = [PROBLEM | dict(problem_id=f'p{i}', prompt=f'{PROBLEM["prompt"]} ({i})', draft=d) for i, d in enumerate((RIGHT, WRONG))]
    cfg = RunConfig(name='table', folder=str(tmp_path), student=tiny_student, student_engine='hf', traces=str(write_table(given, tmp_path/'given.jsonl')), methods=('loop',), benchmarks=('test:2',), draft=SampleConfig(max_new_tokens=8))
    made = run(cfg, 'pairs')['loop']
    assert [r['completion'][0]['content'] for r in made.rows] == [RIGHT] and made.dropped == {'neither draft nor retry is right': 1}
    assert {r['help'] for r in read_table(cfg.path('traces.parquet'))} == {None}   # the drafts are of nobody known
