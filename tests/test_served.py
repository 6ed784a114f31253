"Student and teacher behind URLs: drafts, critiques and refinements come from servers, and nothing is asked twice"
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from test_faults import serve   # noqa: F401  (a fixture)

from cgd.core import read_table
from cgd.data import load_problems
from cgd.store import SampleConfig, Store, sessions
from cgd.models import find_model
from cgd.engines import open_engine
from cgd.rollouts import draft
from cgd.teacher import TeacherConfig, open_teacher, teach


def taught(student, teacher, store, problems, tokens=16) -> list[dict]:
    with open_engine(student) as engine: drafts = draft(problems, engine, store, SampleConfig(max_new_tokens=tokens))
    with open_teacher(teacher, TeacherConfig(max_new_tokens=tokens)) as served: return teach(drafts, served, store)


def test_two_servers(serve, tmp_path):   # noqa: F811
    (student, drafts_at), (teacher, teaches_at) = serve(), serve()
    problems = load_problems('val', 20).rows
    with Store(tmp_path/'s.sqlite') as store:
        traces = taught(f'openai:good@{drafts_at}', f'openai:good@{teaches_at}', store, problems)
        assert [t['draft'] for t in traces] == [f'answer to {p["prompt"]}' for p in problems]
        assert all(t['critique'].startswith('answer to') and t['refinement'].startswith('answer to') and t['refinement'] != t['critique'] for t in traces)
        assert [(s['stage'], s['requests']) for s in sessions(store)] == [('draft', 20), ('critique', 20), ('refine', 20)]
        assert taught(f'openai:good@{drafts_at}', f'openai:good@{teaches_at}', store, problems) == traces
        assert (sum(map(len, student.seen.values())), sum(map(len, teacher.seen.values()))) == (20, 40)


@pytest.fixture(scope='module')
def vllm_server(long, tmp_path_factory):
    "The base URL of vLLM's server with the small student (`vllm serve` is the same module, but asks for a package named vllm, which the build for CPU is not)"
    if not long: pytest.skip('starts a vLLM server: with --long')
    log, port = tmp_path_factory.mktemp('serve')/'serve.log', free_port()
    env = os.environ | dict(VLLM_CPU_KVCACHE_SPACE='1', VLLM_CPU_OMP_THREADS_BIND='nobind', HF_HUB_OFFLINE='1', VLLM_NO_USAGE_STATS='1', DO_NOT_TRACK='1')
    command = [sys.executable, '-m', 'vllm.entrypoints.openai.api_server', '--model', find_model('smollm2'), '--host', '127.0.0.1', '--port', str(port), '--served-model-name', 'smollm2',
               '--dtype', 'float32', '--max-model-len', '2048', '--max-num-seqs', '16', '--enforce-eager']
    with open(log, 'w') as out: server = subprocess.Popen(command, env=env, stdout=out, stderr=out)
    try:
        end = time.time() + 1500   # nearly all of it imports, on a busy machine
        while True:
            assert server.poll() is None and time.time() < end, log.read_text()[-3000:]
            try: urllib.request.urlopen(f'http://127.0.0.1:{port}/health', timeout=2); break
            except (urllib.error.URLError, ConnectionError, TimeoutError): time.sleep(1)
        yield f'http://127.0.0.1:{port}/v1'
    finally: server.terminate(); server.wait(60)


def free_port() -> int:
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]


@pytest.mark.skipif(not find_spec('vllm'), reason='vLLM is not installed')
def test_a_run_on_a_real_vllm_server(vllm_server, tmp_path):
    "`cgd refine` asks the server for drafts, critiques and refinements; the same again asks nothing; a draft is what the same model writes in this process"
    url, cgd = f'openai:smollm2@{vllm_server}', str(Path(sys.executable).parent/'cgd')
    config = dict(student='smollm2', student_url=url, teacher=url, problems='train', n_problems=6, methods=['cgd'], benchmarks=['test:2'], engine=dict(timeout=300.),
                  teacher_engine=dict(timeout=300.), draft=dict(max_new_tokens=24), teach=dict(max_new_tokens=24))
    (tmp_path/'run.yaml').write_text(yaml.safe_dump(config))
    run = lambda: subprocess.run([cgd, 'refine', tmp_path/'run.yaml', '--folder', tmp_path, '--name', 'served'], text=True, capture_output=True)
    assert (done := run()).returncode == 0, done.stdout + done.stderr
    traces = read_table(tmp_path/'served'/'traces.parquet')
    assert len(traces) == 6 and all(t['draft'] and t['critique'] and t['refinement'] for t in traces)
    assert {t['draft_finish'] for t in traces} <= {'stop', 'length'} and all(0 < t['draft_tokens'] <= 24 for t in traces)
    asked = lambda: [(s['stage'], s['requests'], s['completion_tokens']) for s in sessions(store)]
    with Store(tmp_path/'served'/'store.sqlite') as store: before = asked()
    assert {stage: n for stage, n, _ in before} == dict(draft=6, critique=6, refine=6) and all(tokens for *_, tokens in before)
    assert run().returncode == 0
    with Store(tmp_path/'served'/'store.sqlite') as store: assert asked() == before                 # nothing is asked twice
    problems = load_problems('train', 6).rows
    with open_engine('hf:smollm2', dtype='float32', batch_size=1) as here, Store(tmp_path/'here.sqlite') as store:
        drafts = {t['problem_id']: t['draft'] for t in draft(problems, here, store, SampleConfig(max_new_tokens=24))}
    same = sum(drafts[t['problem_id']] == t['draft'] for t in traces)
    assert same >= 4, f'{same} of 6 greedy drafts are those of the same weights here'               # kernels differ in the last bit, and near ties with them
