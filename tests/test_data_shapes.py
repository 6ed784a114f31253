"Problems in the shapes that people have: each file is read as it should be, or refused in one line with the mend."
import csv
import gzip
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cgd.cli import main
from cgd.core import CgdError
from cgd.data import FieldConfig, load_problems, split_cft, survey

ASK, WORKED = 'Ben reads 7 pages a day for 6 days. How many pages?', 'He reads 7 * 6 pages, so \\boxed{42}.'
HASHED = '7 * 6 = <<7*6=42>>42\n#### 42'
CFT = dict(instruction='Please critique whether the following solution to the question is correct.\n\n',
           input=f'Question:\n{ASK}\nSolution:\nHe reads 7 + 6 pages: \\boxed{{13}}.\n',
           output='Critique:\nHe reads \\boxed{42} pages.\nConclusion: wrong [END]')


def chat(*said, who='role', what='content', roles=('user', 'assistant')) -> list:
    return [{who: roles[n % 2], what: text} for n, text in enumerate(said)]


GPT = dict(who='from', what='value', roles=('human', 'gpt'))
VERL = dict(data_source='openai/gsm8k', prompt=chat(ASK), ability='math',
            reward_model=dict(style='rule', ground_truth='42'),
            extra_info=dict(split='train', index=0, answer='A wrong one.\n#### 41', question='The bare question?'))

# what a row of each kind looks like -> its gold answer and solution
SHAPES = {
    'alpaca, boxed': (dict(instruction=ASK, input='', output=WORKED), '42', WORKED),
    'alpaca, number': (dict(instruction=ASK, input=None, output=42), '42', '42'),
    'alpaca, words': (dict(instruction=ASK, input='', output='Forty-two.', history=[]), None, 'Forty-two.'),
    'sharegpt': (dict(id='a_0', conversations=chat(ASK, WORKED, **GPT)), '42', WORKED),
    'sharegpt that begins with a greeting': (
        dict(conversations=[{'from': 'gpt', 'value': 'Hello! \\boxed{0}'}, *chat(ASK, WORKED, **GPT)]), '42', WORKED),
    'sharegpt with a system message': (
        dict(conversations=[{'from': 'system', 'value': 'Be brief.'}, *chat(ASK, WORKED, **GPT)]), '42', WORKED),
    'messages': (dict(messages=chat(ASK, HASHED)), '42', '7 * 6 = 42'),
    'messages of several turns': (dict(messages=chat(ASK, WORKED, 'And twice that?', '\\boxed{84}')), '42', WORKED),
    'messages and their answer': (dict(messages=chat(ASK, 'It is 42.'), answer=42), '42', 'It is 42.'),
    'prompt as a list': (dict(prompt=[dict(role='system', content='Be brief.'), *chat(ASK)], answer='42'), '42', None),
    'gsm8k': (dict(question=ASK, answer=HASHED), '42', '7 * 6 = 42'),
    'math': (dict(problem=ASK, level='Level 2', type='Prealgebra', solution=WORKED), '42', WORKED),
    'numina cot': (dict(source='olympiads', problem=ASK, solution=WORKED, messages=chat(ASK, WORKED)), '42', WORKED),
    'numina 1.5': (dict(problem=ASK, solution='Multiply.', answer='42', problem_type='Algebra', synthetic=False,
                        question_type='math-word-problem', problem_is_valid='Yes', source='cn_k12'), '42', 'Multiply.'),
    'numina 1.5, a proof': (dict(problem=ASK, solution='Clear.', answer='proof', source='olympiads'), None, 'Clear.'),
    'openmathinstruct 1': (dict(question=ASK, expected_answer='42', predicted_answer='41', is_correct=False,
                                generated_solution='It is \\boxed{41}.'), '42', 'It is \\boxed{41}.'),
    'openmathinstruct 2': (dict(problem=ASK, generated_solution=WORKED, expected_answer='42', problem_source='gsm8k'),
                           '42', WORKED),
    'verl': (VERL, '42', None),
    'verl, a list in a text': (VERL | dict(reward_model=dict(ground_truth='["42"]')), '42', None),
    'webinstruct-cft': (CFT, None, None),
    'cft in messages': (dict(messages=chat(CFT['instruction'] + CFT['input'], CFT['output'])), None, None),
    'cft with its columns': (dict(problem=ASK, noisy_answer='13', answer=CFT['output'], critique=CFT['output']), None, None),
    'metamath': (dict(type='GSM_AnsAug', query=ASK, response='7 * 6 = 42\n#### 42\nThe answer is: 42'), '42', '7 * 6 = 42'),
    'openr1': (dict(problem=ASK, solution=WORKED, answer='42', generations=['a', 'b'], is_reasoning_complete=[True],
                    messages=chat(ASK, '<think>So.</think> \\boxed{41}')), '42', WORKED),
    'olympiad': (dict(question=ASK, final_answer=['42'], solution=['Step 1.', 'Step 2.'], unit=None), '42', None),
    'a source that is no text': (dict(question=ASK, answer='42', source=dict(url='x'), id=['a', 'b']), '42', None)}


def as_csv(rows, mark=',') -> str:
    "Texts as they are, and JSON of what is none, as tables hold them"
    names, out = list(dict.fromkeys(k for r in rows for k in r)), io.StringIO()
    cells = csv.writer(out, delimiter=mark)
    cells.writerow(names)
    for r in rows:
        values = (r.get(n) for n in names)
        cells.writerow(['' if v is None else v if isinstance(v, str | int | float) else json.dumps(v) for v in values])
    return out.getvalue()


WRITERS = {'jsonl': lambda rows: '\n'.join(map(json.dumps, rows)), 'json': lambda rows: json.dumps(rows, indent=2),
           'csv': as_csv, 'tsv': lambda rows: as_csv(rows, '\t')}


def write(path:Path, rows:list) -> str:
    kind = path.suffix[1:]
    if kind == 'parquet': pq.write_table(pa.Table.from_pylist(rows), path)
    else: path.write_text(WRITERS[kind](rows), newline='')
    return str(path)


@pytest.mark.parametrize('kind', [*WRITERS, 'parquet'])
@pytest.mark.parametrize('shape', SHAPES)
def test_each_shape_in_each_kind_of_file(tmp_path, shape, kind):
    raw, gold, solution = SHAPES[shape]
    problem, = load_problems(write(tmp_path/f'mine.{kind}', [raw]))
    assert (problem['prompt'], problem['reference']) == (ASK, gold)
    if kind not in ('csv', 'tsv') or shape != 'olympiad': assert problem['solution'] == solution


# what stands in a file -> the mend that its refusal names
REFUSED = {
    'columns.json': (json.dumps(dict(question=['a', 'b'], answer=['1', '2'])), "orient='records'"),
    'named.json': (json.dumps(dict(p1=dict(question='a'), p2=dict(question='b'))), "orient='records'"),
    'lists.json': (json.dumps(dict(dev=[dict(question='a')], test=[dict(question='b')])), 'it has dev, test; add ::NAME'),
    'texts.json': (json.dumps(['What is 1 + 1?', 'What is 2 + 2?']), 'expected an object, found "What is 1 + 1?"'),
    'odd.csv': ('frage,antwort\n1+1?,2\n', 'found frage, antwort); name its column by fields.prompt'),
    'twice.csv': ('question,answer,answer\n1,2,3\n', 'two columns `answer`'),
    'latin.csv': ('question,answer\nWie groß?,2\n'.encode('latin-1'), 'save it as UTF-8'),
    'powershell.jsonl': ('{"question": "1+1?"}'.encode('utf-16'), 'is UTF-16'),
    'table.xlsx': (b'PK', 'rows are read from .jsonl'),
    'few.jsonl': (json.dumps(dict(prompt=chat('1+1?', '2', '2+2?'), answer='4')), 'the last of them open; write it as one text'),
    'nested.jsonl': (json.dumps(dict(question='1+1?', answer=dict(value='2', aliases=[]))), 'such as answer.value, by `fields`'),
    'many.jsonl': (json.dumps(dict(question='x^2 = 4?', answer=['2', '-2'])), 'such as answer.0, by `fields`')}

@pytest.mark.parametrize('name', REFUSED)
def test_what_cannot_be_read_names_the_mend(tmp_path, name, capsys):
    content, mend = REFUSED[name]
    (tmp_path/name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(['data', str(tmp_path/name)]) == 1
    said = capsys.readouterr()
    assert mend in said.err and len(said.err.splitlines()) == 1 and name in said.err and not said.out


def test_broken_rows_keep_their_places(tmp_path):
    "In a list of JSON and in CSV as in lines; the rest is read"
    (tmp_path/'x.json').write_text('[\n{"question": "$\\sqrt{4}$?", "answer": "2"},\n{"question": "torn},\n'
                                   '{"question": "2+2?", "answer": "4"}\n]')
    (tmp_path/'y.json').write_text('{"version": 1, "data": [\n{"question": "1+1?", "answer": "2"},\n{"question": "2+2?", "ans')
    (tmp_path/'x.csv').write_text('question,answer\n"1+1, now\nor never?",2\n2+2, then?,4\n\n3+3?,6\n')
    problems = load_problems(f'{tmp_path}/y.json')
    assert len(problems) == 1 and 'y.json:3: broken line' in problems.skipped[0]
    problems = load_problems(f'{tmp_path}/x.csv')
    assert [r['reference'] for r in problems] == ['2', '6'] and 'x.csv:4: 3 cells under 2 columns' in problems.skipped[0]
    problems = load_problems(f'{tmp_path}/x.json')
    assert problems[0]['prompt'] == r'$\sqrt{4}$?' and 'x.json:3: broken line' in problems.skipped[0]

def test_rows_of_one_line_are_told_apart(tmp_path):
    rows = [dict(question='1+1?', answer='2'), dict(question='1+1?', answer='2'), dict(question='', answer='3')]
    (tmp_path/'x.json').write_text(json.dumps(rows))
    problems = load_problems(f'{tmp_path}/x.json')
    assert len(problems) == 1 and [m.split(': ')[1] for m in problems.skipped] == ['row 2', 'row 3']


@pytest.fixture
def rows(): return [dict(question=f'{n} + {n}?', answer=2 * n) for n in range(4)]

def test_folders(tmp_path, rows, monkeypatch):
    "By split, as `datasets` finds them; what it would leave out is named, and save_to_disk's are read"
    monkeypatch.setenv('HF_DATASETS_CACHE', str(tmp_path/'cache'))
    for folder in ('sums/train', 'sums/test', 'mixed', 'single'): (tmp_path/folder).mkdir(parents=True)
    write(tmp_path/'sums'/'train'/'a.jsonl', rows[:2])
    write(tmp_path/'sums'/'train'/'b.jsonl', rows[2:3])
    (tmp_path/'sums'/'test'/'c.jsonl.gz').write_bytes(gzip.compress(json.dumps(rows[3]).encode()))
    golds = lambda spec: [r['reference'] for r in load_problems(spec)]
    assert golds(f'{tmp_path}/sums') == ['0', '2', '4'] and golds(f'{tmp_path}/sums::test') == ['6']
    assert golds(f'hub:{tmp_path}/sums::test+train[:1]') == ['6', '0']
    with pytest.raises(CgdError, match='no split `dev`; it has train, test'): load_problems(f'{tmp_path}/sums::dev')
    write(tmp_path/'mixed'/'a.jsonl', rows[:2])
    write(tmp_path/'mixed'/'b.csv', rows[2:])
    with pytest.raises(CgdError, match='b.csv would be left out'): load_problems(f'{tmp_path}/mixed')
    for n, row in enumerate(rows): (tmp_path/'single'/f'{n}.json').write_text(json.dumps(row, indent=1))   # MATH is so
    assert golds(f'{tmp_path}/single') == ['0', '2', '4', '6']
    from datasets import Dataset, DatasetDict
    whole = Dataset.from_list(rows)
    whole.shuffle(seed=1).save_to_disk(f'{tmp_path}/saved')
    DatasetDict(train=whole.select([1]), test=whole.select([2])).save_to_disk(f'{tmp_path}/splits')
    assert sorted(golds(f'{tmp_path}/saved')) == ['0', '2', '4', '6']
    assert golds(f'{tmp_path}/splits') == ['2'] and golds(f'{tmp_path}/splits::test') == ['4']
    (tmp_path/'saved'/'data-00000-of-00001.arrow').write_bytes(b'torn')
    with pytest.raises(CgdError, match='damaged folder of `save_to_disk`'): load_problems(f'{tmp_path}/saved')


CASES = Path(os.environ.get('CGD_CASES_DIR', '/nowhere'))/'problems'

@pytest.mark.skipif(not CASES.is_dir(), reason='needs a folder of cases, named by CGD_CASES_DIR')
def test_cases():
    for path in sorted(CASES.glob('*.jsonl')):
        found = survey(str(path))
        assert found.counts['gold'] >= found.counts['problems'] - 1, found

BENCH = Path(os.environ.get('CGD_BENCH_DIR', '/nowhere'))

@pytest.mark.skipif(not (BENCH/'one_shot_cft_sample.jsonl.gz').is_file(), reason='needs the benchmark folder')
def test_real_critiques_are_no_gold():
    "By their columns, and in the chats that they were published in"
    plain = survey('bench:one_shot_cft_sample')
    assert plain.counts['gold'] == plain.counts['solution'] == 0 and plain.counts['problems'] == 180 - plain.counts['skipped']
    in_chats = survey('bench:one_shot_cft_sample', fields=FieldConfig(prompt='messages'))
    assert {r['prompt'] for r in in_chats.problems} <= {r['prompt'].strip() for r in plain.problems} | {''}
    assert in_chats.counts['gold'] == 0

@pytest.mark.skipif(not (BENCH/'webinstruct_sample.jsonl.gz').is_file(), reason='needs the benchmark folder')
def test_answers_in_sentences_are_said():
    assert any('are sentences' in note for note in survey('bench:webinstruct_sample').problems.notes)


def test_split_cft():
    assert split_cft(CFT['instruction'] + CFT['input']) == [ASK, 'He reads 7 + 6 pages: \\boxed{13}.']
    for text in (ASK, f'Question:\n{ASK}\nSolution:\n42', 'Write a critique of this novel.\nQuestion: which one?'):
        assert split_cft(text) is None


def test_a_survey_of_verl(tmp_path):
    "What is used for what, down to the parts of columns; the same from the command line"
    found = survey(write(tmp_path/'x.parquet', [VERL, VERL | dict(prompt=chat('1+1?'), reward_model=dict(ground_truth=2))][:1]))
    uses = {c['column']: c['used_for'] for c in found.columns}
    assert uses['prompt'] == 'prompt (1)' and uses['reward_model.ground_truth'] == 'gold (1)'
    assert {'extra_info.answer', 'extra_info.question', 'data_source', 'reward_model.style'} <= {*found.unused}
    assert found.counts == dict(problems=1, gold=1, solution=0, skipped=0)
    better = survey(found.spec, fields=FieldConfig(prompt='extra_info.question', solution='extra_info.answer'))
    assert (better.problems[0]['prompt'], better.counts['solution']) == ('The bare question?', 1)
    assert better.use['command'].endswith('--fields.prompt extra_info.question --fields.solution extra_info.answer')

def test_what_the_command_says(tmp_path, capsys):
    rows = [dict(ask=f'{n} + {n}?', meta=dict(gold=2 * n), why='Add.') for n in range(5)] + [dict(ask='')] * 2
    file = write(tmp_path/'odd.jsonl', rows)
    assert main(['data', file, '--fields.prompt', 'ask', '--rows', '3']) == 0
    said = capsys.readouterr().out
    for part in ('the first 3 problems, NONE with a gold answer, NONE with a solution', 'meta.gold, why, look again',
                 'prompt    0 + 0?', 'ask        prompt (3)', '--fields.prompt ask'): assert part in said, said
    assert main(['data', file, '--fields.prompt', 'ask', '--fields.reference', 'meta.gold']) == 0
    said = capsys.readouterr().out
    for part in ('5 problems, 5 with a gold answer', 'skipped 2: ', f'{file}:6', f'(and {file}:7)', 'reference: meta.gold'):
        assert part in said, said
    assert main(['data', file, '--fields.prompt', 'question']) == 1
    assert 'no prompt (looked for question; found ask, meta, why)' in capsys.readouterr().err
