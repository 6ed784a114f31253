"What a user can get wrong ends in one clear message, without a traceback, and what is good is kept."
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cgd.cli import main
from cgd.core import CgdError, read_table
from cgd.engines import open_engine
from cgd.methods import ViewConfig
from cgd.pipeline import run
from cgd.plan import RunConfig
from cgd.views import build


@pytest.fixture
def cgd(tmp_path, capsys, tiny_model):
    "Run the command line on the tiny model in a folder of its own: exit code and all that it said"
    def call(*words, student=tiny_model):
        if '--problems' in words and '--teacher' not in words: words += '--teacher', 'oracle'
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


@pytest.mark.parametrize('teacher, more, lacks', [('oracle', (), 'has no solution, which the oracle teacher needs'), ('oracle', ('--methods', 'cgd', 'rlfr'), 'has no solution, which the oracle teacher needs'),
                                                  ('expert', (), 'expert knows the kinds of problems that come with cgd')])
def test_a_validation_set_is_taught_too(cgd, tmp_path, teacher, more, lacks):
    "Before anything is drafted. Trap: only the training problems were looked at"
    (tmp_path/'held.jsonl').write_text(json.dumps(dict(id='x', prompt='Name a colour.', reference='red')))
    code, said = cgd('train', 'cpu', '--validation', str(tmp_path/'held.jsonl'), '--teacher', teacher, *more)
    assert code == 1 and 'x' in said and lacks in said and not (tmp_path/'cpu'/'store.sqlite').exists()


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


def model_like(folder, student, **config):
    "A copy of a model with other words in its config"
    shutil.copytree(student, folder)
    values = json.loads((folder/'config.json').read_text()) | config
    (folder/'config.json').write_text(json.dumps(values))
    return str(folder)


class Runs:
    "A pickle that runs a command when it is loaded"
    def __init__(self, file): self.file = file
    def __reduce__(self): return os.system, (f'touch {self.file}',)


def test_a_model_with_code_of_its_own_is_refused(cgd, tmp_path, tiny_model):
    own = model_like(tmp_path/'own', tiny_model, model_type='mine', auto_map=dict(AutoConfig='config_mine.Mine'))
    (tmp_path/'own'/'config_mine.py').write_text(f'open({str(tmp_path/"ran")!r}, "w")')
    code, said = cgd('draft', 'cpu', '--n-problems', '2', student=own)
    assert code == 1 and 'run code of its own' in said.strip().splitlines()[-1] and 'Traceback' not in said
    assert not (tmp_path/'ran').exists()
    new = model_like(tmp_path/'new', tiny_model, model_type='mine')
    code, said = cgd('draft', 'cpu', '--name', 'new-type', '--n-problems', '2', student=new)
    assert code == 1 and 'no such type of model' in said.strip().splitlines()[-1] and 'Traceback' not in said


def test_a_pickle_that_does_more_than_hold_weights_is_refused(cgd, tmp_path, tiny_model):
    import torch
    folder = Path(model_like(tmp_path/'pickle', tiny_model))
    (folder/'model.safetensors').unlink()
    torch.save(dict(weights=Runs(tmp_path/'ran')), folder/'pytorch_model.bin')
    code, said = cgd('draft', 'cpu', '--n-problems', '2', student=str(folder))
    assert code == 1 and 'safetensors' in said.strip().splitlines()[-1] and 'Traceback' not in said
    assert not (tmp_path/'ran').exists()


CPU = Path(__file__).parent.parent/'data'/'results'/'cpu'
NO_MOUNTS = not shutil.which('unshare') or subprocess.run(['unshare', '-rm', 'true'], capture_output=True).returncode != 0


def report_in(tmp_path, *steps) -> tuple[int, str, dict]:
    "Report a run under mounts of one's own: exit code, all that it said, and what the run's files then are"
    start = f'{sys.executable} -c "import sys; from cgd.cli import main; sys.exit(main())"'
    end = f'{start} report run/cpu; code=$?; rm -rf kept; cp -r run/cpu kept; exit $code'
    done = subprocess.run(['unshare', '-rm', 'sh', '-c', ' && '.join([*steps, end])], cwd=tmp_path, text=True, capture_output=True)
    files = {f.relative_to(tmp_path/'kept'): f.read_bytes() for f in (tmp_path/'kept').rglob('*') if f.is_file()}
    return done.returncode, done.stdout + done.stderr, files


@pytest.mark.skipif(NO_MOUNTS, reason='this machine lets nobody mount')
@pytest.mark.parametrize('steps,want', [
    (('mount -t tmpfs -o size=3m tmpfs run', f'cp -r {CPU} run', 'cat /dev/zero > run/fill || true'), 'No space left on device; make room'),
    ((f'cp -r {CPU} run', 'mount --bind run run', 'mount -o remount,bind,ro run'), 'Read-only file system; see that it may be written')])
def test_a_disk_that_takes_nothing(tmp_path, steps, want):
    (tmp_path/'run').mkdir()
    code, said, files = report_in(tmp_path, *steps)
    assert code == 1 and said.strip().splitlines()[-1].startswith('cgd: ') and want in said and 'Traceback' not in said, said
    before = {f.relative_to(CPU): f.read_bytes() for f in CPU.rglob('*') if f.is_file()}
    assert {f: files.get(f) for f in before} == before   # nothing is lost


def test_a_limit_on_files_stops_a_report_in_one_line(tmp_path):
    shutil.copytree(CPU, tmp_path/'cpu')
    code = 'import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); from cgd.cli import main; sys.exit(main())'
    done = subprocess.run([sys.executable, '-c', code, 'report', str(tmp_path/'cpu')], text=True, capture_output=True)
    assert done.returncode == 1 and 'File too large' in done.stderr and 'Traceback' not in done.stderr, done.stderr
    assert (tmp_path/'cpu'/'report.html').exists() == (CPU/'report.html').exists()


def test_a_file_where_the_runs_folder_should_be(cgd, tmp_path):
    (tmp_path/'cpu').write_text('mine')
    code, said = cgd('draft', 'cpu')
    assert code == 1 and 'a file is where a folder is wanted' in said and 'Traceback' not in said
    assert (tmp_path/'cpu').read_text() == 'mine'


def test_aliases_that_grow_beyond_measure(cgd, tmp_path):
    lines = ['a: &a [x, x, x, x, x, x, x, x, x, x]', *(f'{b}: &{b} [{", ".join([f"*{a}"] * 10)}]' for a, b in zip('abcdef', 'bcdefg'))]
    (tmp_path/'bomb.yaml').write_text('\n'.join(lines))
    code, said = cgd('draft', str(tmp_path/'bomb.yaml'))
    assert code == 1 and 'aliases' in said and len(said) < 1000


@pytest.mark.parametrize('section', ['train', 'rl', 'prefer', 'draft'])
def test_an_empty_section_is_named(tmp_path, section):
    "`train:` with nothing below it is a mistake of the file, and no traceback"
    (tmp_path/'c.yaml').write_text(f'name: x\n{section}:\n')
    with pytest.raises(CgdError, match=section): RunConfig.load(tmp_path/'c.yaml')


def test_options_without_effect_are_refused():
    for spec, options in (('openai:m@http://localhost:1/v1', dict(adapter='a')), ('openai:m@http://localhost:1/v1', dict(quantization='fp8')), ('hf:smollm2', dict(steer_strength=-2.))):
        with pytest.raises(CgdError, match=next(iter(options))): open_engine(spec, **options)


def test_a_filter_without_its_column_is_named():
    row = dict(row_id='a', prompt='p', solution='s', draft='d', direct='e', draft_grade='wrong')
    for more, column in ((dict(no_leak=True), 'critique'), (dict(verdict_agrees=True), 'verdict')):
        with pytest.raises(CgdError, match=column): build([row], 'sft', ViewConfig(**more))


def test_a_run_that_tests_nothing_says_so_before_it_drafts(tmp_path):
    with pytest.raises(CgdError, match='benchmarks: name at least one'): run(RunConfig(folder=str(tmp_path), benchmarks=()))
    assert not list(tmp_path.rglob('*.parquet'))
