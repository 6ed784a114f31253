"Rows that stream through the stages: stopped anywhere, every row once, by the benchmark that shows it at a million rows"
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

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
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(children, 60)[1]   # they die with it
    before = len(made(tmp_path))
    assert before < 13 and not (tmp_path/'900'/'done').exists()
    again = scale(tmp_path, '--sizes', '300', '900', '--out', str(tmp_path/'scale.csv'))
    out, err = again.communicate()
    assert again.returncode == 0 and 'every row once' in out, err
    drafts = [m for m in made(tmp_path) if m['stage'] == 'draft']
    assert 6 <= len(drafts) <= 7                       # one part at most was made twice
    assert re.search(r'time grows as rows\^-?\d+\.\d+,', out)   # whether it is linear is the benchmark's to say, at sizes that outweigh the noise
    assert (tmp_path/'scale.csv').read_text().startswith('rows,')
