"What a run says while it goes on: on a terminal and without one, through a kill, with a teacher who makes rubbish, to a logger"
import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

import cgd.progress
from cgd.cli import main
from cgd.core import CgdError
from cgd.pipeline import run
from cgd.plan import RunConfig
from cgd.store import Store, contents
from cgd.trainer import log_scores
from warm import CONTEXT

WORDS = '''name: seen
folder: {folder}
student: {student}
student_engine: hf
teacher: oracle
n_problems: 8
methods: [cgd]
benchmarks: ['test:2']
draft: {{max_new_tokens: 8}}
views: {{keep_truncated: true}}
eval: {{max_new_tokens: 8}}
train: {{backend: trl, epochs: 8, batch_size: 4, device_batch_size: 4, save_steps: 2}}
'''


def on_terminal(terminal: str, work, *args):
    "Work whose output goes to a terminal, in a process of its own"
    os.setsid()
    screen = os.open(terminal, os.O_RDWR)
    for descriptor in (1, 2): os.dup2(screen, descriptor)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(d), 'w', buffering=1) for d in (1, 2))   # those of a test are captured
    os._exit(int(bool(work(*args))))


class Terminal:
    "A terminal, and all that it was sent"
    def __init__(self, work, *args):
        self.ours, theirs = pty.openpty()
        self.process, self.seen = CONTEXT.Process(target=on_terminal, args=(os.ttyname(theirs), work, *args)), ''
        self.process.start()
        os.set_blocking(self.ours, False)
        self.theirs = theirs

    def read(self) -> str:
        with contextlib.suppress(BlockingIOError, OSError):
            while part := os.read(self.ours, 9999): self.seen += part.decode()
        return self.seen

    def until(self, done, seconds=300) -> str:
        end = time.time() + seconds
        while not done(self.read()) and time.time() < end and self.process.is_alive(): time.sleep(.05)
        return self.read()

    def close(self):
        os.close(self.theirs)
        os.close(self.ours)


@pytest.fixture(scope='module')
def config(tiny_student, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    (folder/'c.yaml').write_text(WORDS.format(folder=folder, student=tiny_student))
    return folder/'c.yaml'


def test_a_killed_run_on_a_terminal_and_its_rest_in_a_log(config, capsys, monkeypatch):
    terminal = Terminal(main, ['run', str(config)])
    trained = re.compile(r'\[5/7 tune cgd\] (\d+) of 16 steps, loss [\d.]+, \d+ tokens/s, \d+:\d\d gone, about \d+:\d\d left')
    seen = terminal.until(lambda seen: any(int(n) >= 4 for n in trained.findall(seen)))
    os.killpg(terminal.process.pid, signal.SIGKILL)
    terminal.close()
    assert trained.search(seen), seen[-1000:]
    assert '[1/7 draft] loading, ' in seen and '[5/7 tune cgd] loading, ' in seen
    kept = [re.sub(r'.*\r', '', line.rstrip('\r')) for line in seen.split('\n')]   # what is left standing on a screen
    assert kept[0].startswith('draft 8: right ') and kept[0].endswith('; cut off 8'), kept
    assert any(line.startswith('untrained on test: ') for line in kept) and 'pairs cgd 8' in kept
    assert any(re.fullmatch(r'refine 8: right \d+% -> 100%; verdicts 8 read; cut off 0', line) for line in kept), kept
    monkeypatch.setattr(cgd.progress._Line, 'every', 1)
    assert main(['run', str(config)]) == 0
    said = capsys.readouterr()
    assert '\r' not in said.out + said.err
    lines = said.out.splitlines()
    assert lines[0].startswith('draft 8: ') and lines[0].endswith('; already there')
    assert any(re.fullmatch(r'tune cgd 8 pairs, 8 epochs: loss [\d.]+ -> [\d.]+, \d+ tokens/s', line) for line in lines), lines
    assert any(re.fullmatch(r'cgd on test: [\d.]+% \(untrained [\d.]+%\); cut off \d', line) for line in lines), lines
    assert 'draft: 8 of 8 were cut off before their end; raise --draft.max-new-tokens' in said.err
    shown = [line for line in said.err.splitlines() if line.startswith('[')]
    assert 2 < len(shown) and all(re.match(r'\[\d/7 [\w ]+\] .*\d:\d\d gone', line) for line in shown), said.err
    last = max(map(int, trained.findall(seen)))   # of two steps each is kept
    assert last - 3 <= min([16, *map(int, re.findall(r'tune cgd\] (\d+) of 16', said.err))])   # it went on


def test_quiet_and_verbose(config, capsys, tmp_path, tiny_student):
    assert main(['-q', 'run', str(config)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith('benchmark') and not [line for line in said.err.splitlines() if '--' not in line], said
    again = ['train', str(config), '--name', 'loud', '--train.epochs', '1', '--store', str(config.parent/'seen'/'store.sqlite')]
    assert main(['-v', *again]) == 0
    said = capsys.readouterr()
    assert "'train_runtime'" in said.err and 'train: done' in said.out   # the trainer's own words
    assert main(['-q', '-v', *again]) == 1
    assert '-q and -v: take one of them' in capsys.readouterr().err


DYING = """
import contextlib, os, pathlib, signal, time
from cgd.core import CgdError
from cgd.process import launch
from cgd.progress import Work, begin_step, show_progress
def work():
    Work('draft', 9).tick(3)
    end = time.time() + 60
    while not pathlib.Path('seen').exists() and time.time() < end: time.sleep(.01)
    os.kill(os.getpid(), signal.SIGKILL)
if __name__ == '__main__':
    try:
        with show_progress({'draft': None}):
            begin_step('draft')
            launch('dying:work')
    except CgdError as e: print('cgd:', str(e).partition(';')[0])
"""


def test_a_dead_child_leaves_no_line(tmp_path):
    (tmp_path/'dying.py').write_text(DYING)
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, 'dying.py'], cwd=tmp_path, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b''
    with contextlib.suppress(OSError):   # Linux raises at the end
        while part := os.read(ours, 9999):
            seen += part
            if b'3 of 9 rows' in seen: (tmp_path/'seen').touch()   # now it may die
    os.close(ours)
    assert process.wait() == 0
    *_, line, wiped, end = seen.decode().rstrip().split('\r')
    assert '[1/1 draft] 3 of 9 rows' in line and not wiped.strip(), seen
    assert end == 'cgd: dying:work: its process was killed, most often for want of memory', end


def test_a_teacher_who_makes_rubbish_is_stopped_early_and_costs_nothing_twice(tiny_student, tmp_path):
    cfg = RunConfig(name='mute', folder=str(tmp_path), student=tiny_student, student_engine='hf', teacher=f'hf:{tiny_student}', n_problems=40,
                    methods=('cgd',), draft=dict(max_new_tokens=4), teach=dict(max_new_tokens=4), max_unparsed=.5)
    with pytest.raises(CgdError, match=r'max_unparsed: 100% of the first 32 verdicts are unparsed, more than 50%; what was written is kept. '
                                       r'(.|\n)*raise --teach.max-new-tokens'): run(cfg, 'refine')
    with Store(cfg.path('store.sqlite')) as store:
        held, written = len(store), {s['stage']: s['rows'] for s in contents(store)}
    assert written['critique'] == 32, written
    assert len(run(cfg.model_copy(update=dict(max_unparsed=1.)), 'critique')) == 40   # another value is no other run
    with Store(cfg.path('store.sqlite')) as store: assert len(store) == held + 8


def test_a_logger_has_the_scores_beside_the_losses(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    log_scores('tensorboard', tmp_path/'cgd.logs', {'eval/test/strict': .25, 'eval/test/n': 4}, 16)
    events = EventAccumulator(str(tmp_path/'cgd.logs'))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars('eval/test/strict')] == [(16, .25)]
