"Tables in parts: stopped anywhere, every row once, by the benchmark that shows it at a million rows"
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def scale(folder, *words, **how):
    command = [sys.executable, str(ROOT/'benchmarks'/'scale.py'), '--folder', str(folder), '--rows-at-once', '150', *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT/'benchmarks', **how)


def made(folder) -> list[dict]:
    log = folder/'900'/'log.jsonl'
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_a_stream_that_is_killed_goes_on_and_has_every_row_once(tmp_path):
    process = scale(tmp_path, '--sizes', '900')
    while sum(m['stage'] == 'draft' for m in made(tmp_path)) < 3: assert process.poll() is None, process.stderr.read(); time.sleep(.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(.5)   # its child dies with it
    before = len(made(tmp_path))
    assert before < 13 and not (tmp_path/'900'/'done').exists()
    again = scale(tmp_path, '--sizes', '300', '900', '--out', str(tmp_path/'scale.csv'))
    out, err = again.communicate()
    assert again.returncode == 0 and 'every row once' in out, err
    drafts = [m for m in made(tmp_path) if m['stage'] == 'draft']
    assert 6 <= len(drafts) <= 7                       # one part at most was made twice
    assert re.search(r'time grows as rows\^-?\d+\.\d+,', out)   # whether it is linear is the benchmark's to say, at sizes that outweigh the noise
    assert (tmp_path/'scale.csv').read_text().startswith('rows,')


def test_a_run_in_parts_has_the_traces_and_pairs_of_a_run(tiny_student, tmp_path):
    from cgd.core import read_table, write_table
    from cgd.data import load_problems
    from cgd.pipeline import RunConfig, run
    from cgd.scale import read_parts, run_in_parts, view_parts
    write_table(load_problems('train', 7).rows + load_problems('test', 3).rows[2:], tmp_path/'problems.jsonl')   # the last is a test problem, if not one of those that are asked
    cfg = RunConfig.make(dict(name='whole', folder=str(tmp_path), store=str(tmp_path/'store.sqlite'), student=tiny_student, student_engine='hf', problems=str(tmp_path/'problems.jsonl'),
                              n_problems=None, benchmarks=['test:2'], engine=dict(dtype='float32'), draft=dict(max_new_tokens=8)))
    parts = run_in_parts(cfg.model_copy(update=dict(name='parts')), 3)
    assert [len(rows) for rows in read_parts(parts['traces'])] == [3, 3, 1]
    whole = run(cfg, 'pairs')
    flat = lambda name: [row for rows in read_parts(parts[name]) for row in rows]
    assert flat('traces') == read_table(cfg.path('traces.parquet'))
    for method in cfg.methods: assert flat(method) == whole[method].rows
    given_away = dict(problem_id='t', prompt=flat('traces')[4]['refinement'])   # no problem, draft or critique of the others has it
    cleaned = view_parts(parts['traces'], ['cgd'], cfg.views, tmp_path/'cleaned', [given_away])['cgd']
    left = {row['row_id'] for rows in read_parts(cleaned) for row in rows}
    assert {row['row_id'] for row in flat('cgd')} - left == {flat('traces')[4]['row_id']}
