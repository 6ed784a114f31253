"Files as people bring them, from reading to the gold answer and the leak filter; nothing changes in silence."
import gzip
import io
import json
import os
from contextlib import redirect_stderr
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cgd.cli import read_settings
from cgd.core import CgdError
from cgd.data import FieldConfig, load_problems, _mend_row
from cgd.store import Store
from cgd.plan import Plan, RunConfig, plan
from cgd.teacher import TeacherConfig, open_teacher, teach
from cgd.methods import ViewConfig
from cgd.views import build


@pytest.fixture(autouse=True)
def no_network(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setenv('HF_DATASETS_CACHE', str(tmp_path/'cache'))


@pytest.fixture
def read(tmp_path):
    "Write lines (texts as they are, or rows) and read them as problems"
    def call(*lines, fields=FieldConfig(), name='mine.jsonl'):
        text = '\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (tmp_path/name).write_text(text + '\n')
        return load_problems(str(tmp_path/name), fields=fields)
    return call


def golds(problems): return [r['reference'] for r in problems]


HASHES = {'2 * 617 = 1234\n#### 1,234': '1234', 'They meet.\n#### (3, 4)': '(3, 4)', '#### 3, 4': '3, 4',
          'x(x - 1) = 0\n#### 0,1': '0,1', 'The set.\n#### \\{2, 3, 5\\}': '\\{2, 3, 5\\}',
          'Between.\n#### (1, 6)': '(1, 6)',
          '3 * 2,50 = 7,50\n#### 7,5': '7,5', 'Subtract.\n#### \\langle 3, 4 \\rangle': '\\langle 3, 4 \\rangle',
          '1250 + 80\n#### $1,330.00': '$1330.00', '2 + 3 = 5 #### 5': '5', '#### Step 1\n3 + 2\n#### 5\n\n': '5',
          'Half.\n#### 0,125': '0,125', 'All.\n#### 1,234,567': '1234567',
          '#### Step 1: lost\n40 - 10 = 30.\n\n#### Step 2: time\n30 / 3 = 10 hours, so \\boxed{10}.': '10'}

@pytest.mark.parametrize('answer', HASHES)
def test_the_mark_of_gsm8k(read, answer):
    "Only thousands lose their commas, and a heading is no answer"
    row, = read(dict(question='How much?', answer=answer))
    assert row['reference'] == HASHES[answer]

UNCLEAR = ('0.15 * 80 = 12.\n\n#### Final Answer\n12', '#### 12\nI hope this helps.',
           'None.\n#### April, June, September and November have 30 days', '40 - 10 = 30.\n#### Step 2',
           '#### Step 1: add\n1 + 1\n#### Step 2: subtract\n2 - 1, so it is 1.')

@pytest.mark.parametrize('answer', UNCLEAR)
def test_an_unclear_mark_is_named(read, answer):
    problems = read(dict(question='How much?', answer=answer), dict(question='1+1?', answer='2'))
    assert golds(problems) == ['2'] and 'mine.jsonl:1: its answer is not clear: ####' in problems.skipped[0]

@pytest.mark.skipif('CGD_BENCH_DIR' not in os.environ, reason='needs the benchmark folder')
@pytest.mark.parametrize('name', ['gsm8k_train', 'gsm8k_test'])
def test_gsm8k_reads_as_it_did(name):
    raws = FieldConfig(reference='raw_answer', solution='raw_answer')
    raw, plain = load_problems(f'bench:{name}', fields=raws), load_problems(f'bench:{name}')
    assert len(raw) == len(plain) in (7473, 1319) and not raw.skipped and golds(raw) == golds(plain)


LATEX = (r'\frac{3}{4}', r'\boxed{42}', r'\theta', r'\nu', r'\rho', r'5\text{ cm}', r'1.5\times 10^3', r'$\beta$',
         r'2\sqrt{2}', r'\pi',
         r'\begin{pmatrix} 1 \\ 2 \end{pmatrix}', r'\binom{5}{2}', r'\tan x', r'\tau', r'\forall x', r'\nabla f',
         r'x \neq 3',
         r'\bar{x}', r'\left[0, 2\right)', r'\left\{1, 2\right\}', r'90^\circ', r'\underline{5}', r'\xi', r'30\%',
         r'\triangle ABC')

@pytest.mark.parametrize('latex', LATEX)
@pytest.mark.parametrize('field', ['problem', 'solution', 'answer'])
def test_single_backslashes_are_mended_and_said(read, latex, field):
    "The text is as it was written, or the row is named; never a control character"
    row = dict(problem='What?', solution='So.', answer='1') | {field: '@'}
    problems = read(json.dumps(row).replace('@', latex))
    wanted = '42' if (latex, field) == (r'\boxed{42}', 'answer') else latex   # the oracle would box it twice
    assert [r[dict(problem='prompt', answer='reference').get(field, field)] for r in problems] == [wanted]
    assert 'single backslashes of LaTeX were mended in 1 of 1 rows, the first: ' in problems.notes[0]
    assert 'mine.jsonl:1 (\\' in problems.notes[0]

HONEST = ('Solve for u.\nu = 3', 'a)\tan apple\n\to go', 'def f(x):\n\treturn x\n', 'One.\r\nTwo.', 'a\n\nb\tc',
          '$$\nu = 3\n$$', '\n12\n',
          'Find $a$ if\n$a +\nu = \\mu$.', 'no\ttext\theading\n', 'd) all\ne) none', 'It costs $5.\nu is $2 more.',
          '\\frac{1}{2}\nu', 'C:\\temp\\new')

@pytest.mark.parametrize('text', HONEST)
def test_real_lines_and_tabs_stay(read, text):
    problems = read(dict(prompt=text, solution=text, answer='5'))
    assert problems[0]['prompt'] == problems[0]['solution'] == text.strip() and not problems.notes

@pytest.mark.parametrize('text', [r"it\'s", r'\x41', r'a\b1', r'page\fPage'])
def test_other_backslashes_are_named(read, text):
    problems = read(f'{{"prompt": "{text}", "answer": "1"}}', dict(prompt='1+1?', answer='2'))
    assert golds(problems) == ['2'] and 'mine.jsonl:1: ' in problems.skipped[0]

def test_lost_backslashes_in_parquet_too(tmp_path):
    pq.write_table(pa.Table.from_pylist([dict(prompt='Half?', answer='\x0crac{1}{2}')]), tmp_path/'x.parquet')
    problems = load_problems(str(tmp_path/'x.parquet'))
    assert golds(problems) == [r'\frac{1}{2}'] and 'mended in 1 of 1 rows' in problems.notes[0]

@pytest.mark.skipif('CGD_BENCH_DIR' not in os.environ, reason='needs the benchmark folder')
@pytest.mark.parametrize('name',
                         ['math500', 'minerva_math', 'olympiadbench_math', 'gsm8k_test', 'bbh', 'humaneval', 'ifeval'])
def test_published_texts_stay_as_they_are(name):
    with gzip.open(Path(os.environ['CGD_BENCH_DIR'])/f'{name}.jsonl.gz') as file:
        for row in map(json.loads, file): assert _mend_row(row) == (row, '')


ASKED = 'How much is 7 + 8?'
SHAPES = (dict(problem=ASKED, generated_solution='So \\boxed{15}.', expected_answer='15'),
          dict(question=ASKED, ground_truth='15'),
          dict(prompt=ASKED, final_answer=15), dict(prompt=ASKED, target='15'), dict(problem=ASKED, gold='15'),
          dict(prompt=ASKED, label=15),
          dict(prompt=ASKED, reward_model=dict(style='rule', ground_truth='15')), dict(Problem=ASKED, Answer=15.0),
          dict(prompt=[dict(role='user', content=ASKED)], answer='15'),
          dict(problem=ASKED, solution='It is $\\boxed{15}$.'),
          dict(instruction='How much is', input='7 + 8?', output='15'),
          dict(instruction=ASKED, input='', output='7 + 8 = \\boxed{15}'),
          dict(conversations=[{'from': 'human', 'value': ASKED}, {'from': 'gpt', 'value': '15'}]),
          dict(messages=[dict(role='system', content='Be brief.'), dict(role='user', content=ASKED),
                         dict(role='assistant', content='15')]))

@pytest.mark.parametrize('row', SHAPES, ids=lambda row: '-'.join(row))
def test_usual_names_and_shapes(read, row):
    problem, = read(row)
    assert problem['reference'] == '15' and problem['prompt'].replace('\n\n', ' ') == ASKED

def test_shapes_in_parquet_too(tmp_path):
    for row in SHAPES:
        pq.write_table(pa.Table.from_pylist([row]), tmp_path/'x.parquet')
        assert golds(load_problems(str(tmp_path/'x.parquet'))) == ['15'], row

TURNS = [{'from': 'System', 'value': 'Be brief.'}, {'from': 'Human', 'value': ASKED}, {'from': 'GPT', 'value': '15'}]
MORE = (dict(conversations=TURNS), dict(conversation=[dict(role='User', content=ASKED)], answerKey='15'),
        dict(messages=json.dumps([dict(role='user', content=ASKED), dict(role='assistant', content='15')])),
        dict(prompt=json.dumps([dict(role='user', content=ASKED)]), reward_model='{"ground_truth": 15.0}'),
        {'Question': ASKED, 'Correct Answer': '15'}, dict(question=ASKED, finalAnswer='15'),
        dict(question=ASKED, gt=15), dict(question=ASKED, reference_answer='15'),
        dict(question=ASKED, answer='So.\n#### $\\boxed{15}$'))

@pytest.mark.parametrize('row', MORE, ids=lambda row: '-'.join(row))
def test_other_spellings_of_names_and_roles(read, row):
    problem, = read(row)
    assert (problem['prompt'], problem['reference']) == (ASKED, '15')

def test_a_chat_that_is_no_json_is_named(read):
    with pytest.raises(CgdError, match='`messages` is a chat that is not JSON'):
        read(dict(messages=str([dict(role='user', content=ASKED)]), answer='15'))

def test_a_gold_of_several_lines_is_said(read):
    problems = read(dict(prompt='Why?', answer='First this.\nThen that.'), dict(prompt=ASKED, answer='15'))
    note, = problems.notes
    assert '1 of 2 gold answers have several lines or are sentences, the first: ' in note

def test_backslashes_that_python_took(read):
    problems = read(dict(prompt='Find $\alpha$ and $\vec{a}$, not 3.', answer='\alpha'), dict(prompt='\a?', answer=1))
    assert (problems[0]['prompt'], golds(problems)) == (r'Find $\alpha$ and $\vec{a}$, not 3.', [r'\alpha'])
    assert 'control character' in problems.skipped[0] and r'(\alpha)' in problems.notes[0]

def test_a_set_that_is_not_named():
    for spec in ('hub:', 'hub:::', 'hub:/'):
        with pytest.raises(CgdError, match='names no dataset'): load_problems(spec)

def test_cells_of_csv_before_a_last_comma(tmp_path):
    "pandas takes the first cell for an index, and moves the others"
    (tmp_path/'set').mkdir()
    (tmp_path/'set'/'x.csv').write_text('question,answer\n1+1?,2,\n1+2?,3,\n')
    problems = load_problems(f'hub:{tmp_path}/set')
    assert [(p['prompt'], p['reference']) for p in problems] == [('1+1?', '2'), ('1+2?', '3')]


WORDS = (dict(prompt=ASKED, completion='15', label=True), dict(instruction=ASKED, output='It is fifteen.'),
         dict(messages=[dict(role='user', content=ASKED), dict(role='assistant', content='Fifteen.')]))

@pytest.mark.parametrize('row', WORDS, ids=lambda row: '-'.join(row))
def test_words_and_thumbs_are_no_gold(read, row):
    problems = read(row)
    assert golds(problems) == [None] and 'no row has a gold answer, so nothing can be graded' in problems.notes[0]
    assert f'found {", ".join(row)}); name its column by fields.reference' in problems.notes[0]

def test_any_other_shape_by_fields(read, tmp_path):
    row = dict(task=dict(ask=ASKED), meta=dict(gold=['15', 'fifteen']), why='7 and 8.')
    (tmp_path/'my.yaml').write_text('fields: {prompt: task.ask, reference: meta.gold.0, solution: why}\n')
    flags = '--fields.prompt task.ask --fields.reference meta.gold.0 --fields.solution why'.split()
    for cfg in (read_settings('run', [str(tmp_path/'my.yaml')]), read_settings('run', flags)):
        problem, = read(row, fields=cfg.fields)
        assert (problem['prompt'], problem['reference'], problem['solution']) == (ASKED, '15', '7 and 8.')
    with pytest.raises(CgdError, match='fields.reference: no row has `gold`; found task, meta, why'):
        read(row, fields=FieldConfig(prompt='task.ask', reference='gold'))

def test_fields_reach_every_stage(read, tmp_path):
    "Training, validation and test problems of one's own; the shipped sets keep their names"
    rows = [dict(ask=f'How much is {i} + 1?', gold=i + 1, solution=f'{i} + 1 = {i + 1}.') for i in range(90)]
    fields, parts = FieldConfig(prompt='ask', reference='gold'), dict(train=rows[:60], held=rows[60:70],
                                                                      tests=rows[70:])
    for name, part in parts.items(): read(*part, name=f'{name}.jsonl', fields=fields)
    files = {name: f'{tmp_path}/{name}.jsonl' for name in parts}
    cfg = RunConfig(problems=files['train'], validation=files['held'], benchmarks=(files['tests'], 'test:5'),
                    fields=fields,
                    decontaminate=False, methods=('dsft_refined',))
    planned = plan(cfg, 'refine')
    assert len(planned.problems) == 60 and len(planned.held_out) == 10
    assert len(plan(cfg.model_copy(update=dict(validation='val:5')), 'refine').held_out) == 5
    assert planned.problems[0]['reference'] == '1'


def test_a_run_without_gold_says_what_to_name(read, tmp_path):
    read(dict(prompt=ASKED, mine='15'))
    for cfg in (RunConfig(problems=f'{tmp_path}/mine.jsonl'),
                RunConfig(benchmarks=(f'{tmp_path}/mine.jsonl',), methods=())):
        with pytest.raises(CgdError, match='has no reference.* name its column by fields.reference'): plan(cfg)

def test_what_is_not_used_is_said_once(read, tmp_path):
    unused = dict(draft='1', critique='No.', refinement='2', options=['1', '2'])
    problems = read(*(dict(prompt=f'{i}+1?', answer=i + 1, **unused) for i in range(3)), dict(prompt='Why?'))
    assert len(problems.notes) == 3
    for part in ('1 of 4 rows have no gold answer, the first: ', 'not used: draft, critique, refinement',
                 'not used: options'):
        assert sum(part in note for note in problems.notes) == 1
    file = f'{tmp_path}/mine.jsonl'
    with redirect_stderr(io.StringIO()) as said: assert len(Plan(RunConfig(problems=file)).problems) == 4
    assert said.getvalue().splitlines() == [f'note: {note}' for note in problems.notes]

def test_a_good_file_says_nothing(read): assert read(dict(prompt=ASKED, reference='15',
                                                          solution='7 + 8 = 15.')).notes == []


VALUES = (date(2020, 1, 31), datetime(2020, 1, 31), datetime(2020, 1, 31, 9, 30), Decimal('15.00'), Decimal('0.125'),
          True,
          15.0, 1e22, 2**60 + 1)
TEXTS = ('2020-01-31', '2020-01-31', '2020-01-31 09:30:00', '15', '0.125', 'True', '15', '1' + '0'*22, str(2**60 + 1))

@pytest.mark.parametrize('value, text', list(zip(VALUES, TEXTS)), ids=TEXTS)
def test_values_of_parquet(tmp_path, value, text):
    "By its path and as a set"
    (tmp_path/'set').mkdir()
    pq.write_table(pa.Table.from_pylist([dict(prompt='?', meta=dict(gold=value), answer=value)]),
                   tmp_path/'set'/'x.parquet')
    for spec in (f'{tmp_path}/set/x.parquet', f'hub:{tmp_path}/set'):
        assert golds(load_problems(spec)) == golds(load_problems(spec,
                                                                 fields=FieldConfig(reference='meta.gold'))) == [text]

COLUMNS = (('2020-01-31', '2021-12-01'), ('2020-01-31T10:00:00', 'never'), (9007199254740993, .5), (10**22 + 1, 7),
           (1, 'one'),
           (2**63, -1), (True, False), ('007', '1e3'), (['3'], ['4']), (None, 15), (1.1, 7),
           (r'\frac{1}{2}', '½'))

@pytest.mark.parametrize('column', COLUMNS, ids=str)
@pytest.mark.parametrize('form', ['jsonl', 'jsonl.gz', 'json'])
def test_a_set_has_its_files_values(tmp_path, column, form):
    "`datasets` guesses the types of JSON files"
    rows = [dict(prompt=f'{i}?', answer=value) for i, value in enumerate(column)]
    text = json.dumps(rows) if form == 'json' else ''.join(json.dumps(row) + '\n' for row in rows)
    (tmp_path/'set').mkdir()
    data = gzip.compress(text.encode()) if form.endswith('gz') else text.encode()
    (tmp_path/'set'/f'train.{form}').write_bytes(data)
    (tmp_path/'plain.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    assert golds(load_problems(f'hub:{tmp_path}/set')) == golds(load_problems(f'{tmp_path}/plain.jsonl'))
    assert len(load_problems(f'{tmp_path}/plain.jsonl')) == 2

def test_a_set_of_csv_keeps_its_texts(tmp_path):
    values = '007', '9007199254740993', '0.50', 'None', '2020-01-31'
    lines = [f'{i}?,{value}' for i, value in enumerate(values)]
    (tmp_path/'x.csv').write_text('\n'.join(['question,answer', *lines, '"6,\n7?",""\n']))
    assert golds(load_problems(f'hub:{tmp_path}')) == [*values, None]

def test_broken_and_mended_rows_of_a_set(tmp_path):
    lines = r'{"prompt": "$\frac{1}{2}$?", "answer": "\sqrt{2}"}', '{"prompt": "torn', '', \
            '{"prompt": "3?", "answer": 3}'
    (tmp_path/'x.jsonl').write_text('\n'.join(lines))
    problems = load_problems(f'hub:{tmp_path}')
    assert golds(problems) == [r'\sqrt{2}', '3'] and problems[0]['prompt'] == r'$\frac{1}{2}$?'
    assert 'x.jsonl:2: broken line' in problems.skipped[0] and 'x.jsonl:1 (' in problems.notes[0]


@pytest.mark.parametrize('form', ['jsonl', 'parquet'])
def test_floats_of_pandas(read, tmp_path, form):
    "15 became 15.0; the oracle boxes 15, and a critique that states it is found out"
    rows = [dict(id=what, prompt=f'How much is 7 + 8 {what}?', answer=15.0, solution=f'7 + 8 = 15 {what}.')
            for what in ('apples', 'pears')]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path/'x.parquet')
    problems = read(*rows) if form == 'jsonl' else load_problems(f'{tmp_path}/x.parquet')
    assert golds(problems) == ['15', '15']
    traces = [dict(p, row_id=p['problem_id'], draft='12', draft_grade='wrong', student='s', sample=0) for p in problems]
    with open_teacher('oracle', TeacherConfig(detail='exact')) as teacher, Store(tmp_path/'s.sqlite') as store:
        taught = teach(traces, teacher, store)
    assert all(r'\boxed{15}' in t['refinement'] for t in taught)
    assert len(build(taught, 'cgd', ViewConfig(no_leak=True))) == 0
