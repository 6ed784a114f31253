"Graders run in workers with limits, from wherever Python runs: plain scripts, standard input, notebooks, forks"
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from cgd.core import CgdError
from cgd.grade import grade, grade_many
from cgd.guard import run_guarded

ALGEBRA, TOWER = (r'2\sqrt{3}', r'\boxed{\sqrt{12}}'), ('5', r'\boxed{9^{9^{9^{9}}}}')
SCRIPT = f'''
from cgd.benchmarks import BENCHMARKS, grade_items
from cgd.grade import grade_many
print("read once")
row = dict(reference='1000', item=dict(answer_type='float'), prompt='')
tolerant = grade_items(BENCHMARKS['theoremqa'], [row]*2, ['\\\\boxed{{10^{{999}}}}', '\\\\boxed{{999}}'])
print([g.outcome for g in grade_many({[ALGEBRA, TOWER, ALGEBRA]!r}, timeout=1)], [g['tolerant'] for g in tolerant])
'''
SAID = "read once\n['right', 'timeout', 'right'] ['wrong', 'right']\n"


@pytest.mark.parametrize('how', ['script', 'standard input', 'command', 'module'])
def test_from_wherever_python_runs(how, tmp_path):
    (tmp_path/'plain.py').write_text(SCRIPT)
    args = dict(script=['plain.py'], command=['-c', SCRIPT], module=['-m', 'plain']).get(how, ['-'])
    given = SCRIPT if how == 'standard input' else ''
    command = [sys.executable, *args]
    done = subprocess.run(command, input=given, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == SAID, done.stderr


def test_in_a_notebook(tmp_path):
    nbformat, nbclient = pytest.importorskip('nbformat'), pytest.importorskip('nbclient')
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SCRIPT)])
    where = dict(metadata=dict(path=tmp_path))
    nbclient.NotebookClient(book, timeout=60, kernel_name='python3', resources=where).execute()
    assert ''.join(o['text'] for o in book.cells[0].outputs if o.get('name') == 'stdout') == SAID


def test_in_a_daemon_and_in_a_fork():
    for how in ('fork', 'spawn'):
        grade(*ALGEBRA)                               # a worker waits, and is not the child's
        with get_context(how).Pool(1) as pool: assert pool.apply_async(grade, ALGEBRA).get(60).right
        assert grade(*ALGEBRA).right


def crash_on(text:str):
    if text == 'crash': os.kill(os.getpid(), signal.SIGSEGV)
    return text.upper()


def test_a_crash_of_the_worker_is_no_timeout(caplog):
    why = 'the worker crashed, twice'
    found = run_guarded('test_guard:crash_on', [('a',), ('crash',), ('b',)], workers=1)
    assert found == [('A', ''), (None, why), ('B', '')]
    assert f'crash_on: 1 of 3 answers could not be graded and count as wrong; the first: {why}' in caplog.text


def test_a_worker_that_was_killed_while_it_waited_is_replaced():
    (pid, _), = run_guarded('os:getpid', [()])
    os.kill(pid, signal.SIGKILL)
    assert grade(*ALGEBRA).right and grade(*ALGEBRA).right


def test_what_a_function_prints_is_no_answer():
    assert run_guarded('builtins:print', [('noise',)]*3) == [(None, '')]*3
    assert run_guarded('os:write', [(1, b'noise')]) == [(5, '')]


def test_an_alarm_of_the_caller_changes_nothing():
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try: assert run_guarded('time:sleep', [(30,)], timeout=.2) == [(None, 'out of time')]
    finally: signal.signal(signal.SIGALRM, before)


def test_time_is_bounded_whatever_is_sent():
    start = time.monotonic()
    found = grade_many([TOWER, ALGEBRA]*4, timeout=1, workers=2)
    assert [g.outcome for g in found] == ['timeout', 'right']*4 and time.monotonic() - start < 30


def test_workers_end_with_their_process():
    code = ("import os; from cgd.guard import run_guarded\n"
            "print(run_guarded('os:getpid', [()])[0][0], flush=True); os.kill(os.getpid(), 9)")
    pid = int(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60).stdout)
    for _ in range(100):
        if not Path(f'/proc/{pid}').exists(): return
        time.sleep(.1)
    pytest.fail('the worker lives on')


def test_a_worker_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr('cgd.guard._IDLE', [])
    monkeypatch.setattr(sys, 'path', [])
    with pytest.raises(CgdError, match='its worker process does not start'): grade(*ALGEBRA)


def test_threads_side_by_side():
    times = lambda i: run_guarded('operator:mul', [(i, k) for k in range(20)])
    with ThreadPoolExecutor(4) as threads: found = list(threads.map(times, range(8)))
    assert found == [[(i*k, '') for k in range(20)] for i in range(8)]
