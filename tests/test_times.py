"Where a run's time goes: what its processes note adds up to its wall time, through a kill too, and is drawn"
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from cgd.core import read_table, read_times
from cgd.costs import time_table
from cgd.engines import _StepTimes
from cgd.figures import draw_folder
from cgd.pipeline import run
from cgd.process import launch
from cgd.plan import RunConfig

CGD = [sys.executable, '-c', 'import sys; from cgd.cli import main; sys.exit(main())']
RUN = '''name: timed
folder: {folder}
student: {student}
student_engine: hf
n_problems: 8
methods: [cgd]
benchmarks: ['test:2']
draft: {{n: 2, temperature: 1., max_new_tokens: 8}}
views: {{keep_truncated: true}}
eval: {{max_new_tokens: 8}}
train: {{backend: trl, epochs: 1, batch_size: 4, device_batch_size: 4}}
'''


def killed_sitting(config, file, until: str) -> float:
    "Seconds of wall time of a run that is killed when it has noted something"
    start = time.time()
    process = subprocess.Popen([*CGD, 'run', str(config)], start_new_session=True)
    while process.poll() is None:
        if file.exists() and until in file.read_text(): os.killpg(process.pid, signal.SIGKILL)
        time.sleep(.05)
    assert process.returncode == -signal.SIGKILL
    return time.time() - start


def whole_sitting(config) -> float:
    "Seconds of wall time of a run that goes to its end; in this process, which need not start from nothing"
    launch('builtins:len', '')   # the server that tests start processes from is up before the clock runs
    start = time.time()
    run(RunConfig.load(config))
    return time.time() - start


def test_every_second_of_a_killed_and_resumed_run_is_accounted_for(tiny_student, tmp_path):
    (tmp_path/'c.yaml').write_text(RUN.format(folder=tmp_path, student=tiny_student))
    folder = tmp_path/'timed'
    first = killed_sitting(tmp_path/'c.yaml', folder/'timing.jsonl', '"train step"')
    cut = time_table(read_times(folder))
    assert abs(sum(r['seconds'] for r in cut) - first) < .1*first + 1.5   # its file is touched every second
    second = whole_sitting(tmp_path/'c.yaml')
    times = time_table(read_times(folder))
    assert {r['sittings'] for r in times} == {2}
    assert abs(sum(r['seconds'] for r in times) - first - second) < .1*(first + second)
    named = sum(r['seconds'] for r in times if r['kind'] != 'rest')
    assert named > .8*(first + second), times   # so small a run is half start-ups, and each process takes a moment to end
    assert {'import', 'load', 'generate', 'train step', 'save', 'merge', 'grade', 'report'} <= {r['kind'] for r in times}
    assert {(r['stage'], r['method']) for r in times} >= {('draft', ''), ('train', 'cgd'), ('eval', 'base'), ('eval', 'cgd'), ('report', '')}
    drawn = dict(draw_folder(folder))
    assert '2 sittings' in drawn['timed-time'].axes[0].get_xlabel()
    assert 'Where the time went' in (folder/'report.html').read_text()
    kept = read_table(folder/'time.csv')
    assert 0 < sum(r['seconds'] for r in kept) <= sum(r['seconds'] for r in times)   # it was made before the run ended


def test_reading_is_what_a_step_takes_beyond_one_that_only_writes(monkeypatch):
    "Two prompts are read, both are written on, a third is read beside them, all end: each step's seconds go to one kind or to both"
    def outs(*tokens): return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[0]*n)]) for n in tokens]
    steps, now, noted = iter([(.3, outs(1, 1)), (.1, outs(2, 2)), (.4, outs(3, 3, 1)), (.1, outs(4, 4, 2))]), [0.], {}

    def step():
        seconds, found = next(steps)
        now[0] += seconds
        return found
    monkeypatch.setattr('cgd.engines.time', SimpleNamespace(time=lambda: now[0], perf_counter=lambda: now[0]))
    monkeypatch.setattr('cgd.engines.note_time', lambda kind, began, seconds: noted.update({kind: seconds}))
    clock = _StepTimes()
    for _ in range(4): clock.step(SimpleNamespace(step=step))
    clock.note()
    assert noted == pytest.approx(dict(prefill=.6, decode=.3))
