"What a user can get wrong ends in one clear message, without a traceback, and what is good is kept."
import json

import pytest

from cgd.cli import main
from cgd.core import read_table


@pytest.fixture
def cgd(tmp_path, capsys, tiny_model):
    "Run the command line on the tiny model in a folder of its own: exit code and all that it said"
    def call(*words, student=tiny_model):
        try: code = main([*words, '--folder', str(tmp_path), '--student', student, '--student-engine', 'hf', '--draft.max-new-tokens', '4'])
        except SystemExit as e: code = e.code
        said = capsys.readouterr()
        return code, said.out + said.err
    return call


def problems(tmp_path, *lines) -> str:
    path = tmp_path/'mine.jsonl'
    path.write_text('\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def row(id, prompt='What is 1 + 1?', **more): return dict(id=id, prompt=prompt, reference='2', solution='One and one: 1 + 1 = 2.\nThe answer is 2.', **more)


def test_misspelt_key(cgd, tmp_path):
    (tmp_path/'my.yaml').write_text('train: {lrr: 0.1}\n')
    code, said = cgd('draft', str(tmp_path/'my.yaml'))
    assert code == 1 and 'train.lrr: no such setting; did you mean `lr`?' in said and 'Traceback' not in said


def test_missing_model_folder(cgd):
    code, said = cgd('draft', 'cpu', student='./no/such/model')
    assert code == 1 and './no/such/model: no such model folder' in said and 'Traceback' not in said


def test_bad_rows_are_named_and_the_rest_goes_on(cgd, tmp_path):
    file = problems(tmp_path, row('a'), '{"id": "b", "prompt": "torn', dict(id='c', reference='2'), row('a', 'What is 2 + 2?'), row('d', 'What is 1 + 3?'))
    code, said = cgd('refine', 'cpu', '--problems', file)
    assert code == 0 and 'Traceback' not in said
    for line in ('mine.jsonl:2', 'mine.jsonl:3', 'mine.jsonl:4'): assert line in said
    assert [r['problem_id'] for r in read_table(tmp_path/'cpu'/'traces.parquet')] == ['a', 'd']


@pytest.mark.parametrize('lines', [[], ['\n'], [dict(reference='2')]])
def test_nothing_usable(cgd, tmp_path, lines):
    code, said = cgd('draft', 'cpu', '--problems', problems(tmp_path, *lines))
    assert code == 1 and 'mine.jsonl' in said and 'Traceback' not in said


def test_prompt_longer_than_the_context(cgd, tmp_path):
    code, said = cgd('refine', 'cpu', '--problems', problems(tmp_path, row('long', 'one and ' * 600), row('short')))
    assert code == 0 and 'left out: long: its prompt is longer than the context' in said
    assert [r['problem_id'] for r in read_table(tmp_path/'cpu'/'traces.parquet')] == ['short']


def test_answer_without_a_number(cgd, tmp_path):
    code, said = cgd('pairs', 'cpu', '--problems', problems(tmp_path, row('a')))
    assert code == 0, said
    trace, = read_table(tmp_path/'cpu'/'traces.parquet')   # four random tokens of a random model
    assert trace['draft_grade'] in ('no_answer', 'wrong') and trace['verdict'] == 'wrong' and trace['refinement_grade'] == 'right'


def test_problems_without_a_gold_answer_need_an_lm_teacher(cgd, tmp_path, tiny_model):
    file = problems(tmp_path, dict(id='a', prompt='Say something.'))
    code, said = cgd('refine', 'cpu', '--problems', file)
    assert code == 1 and 'use an LM teacher' in said
    code, said = cgd('refine', 'cpu', '--problems', file, '--teacher', f'hf:{tiny_model}', '--teach.max-new-tokens', '4')
    assert code == 0, said
    trace, = read_table(tmp_path/'cpu'/'traces.parquet')
    assert trace['draft_grade'] is None and trace['refinement_grade'] is None and trace['refinement_finish'] in ('stop', 'length')


def test_debug_shows_the_traceback(cgd):
    from cgd.core import CgdError
    with pytest.raises(CgdError): cgd('--debug', 'draft', 'nowhere.yaml')
