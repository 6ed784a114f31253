"Student and teacher behind URLs: drafts, critiques and refinements come from servers, and nothing is asked twice"
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_faults import serve   # noqa: F401  (a fixture)

from cgd.data import load_problems
from cgd.generate import SampleConfig, Store, open_engine, sessions
from cgd.rollouts import draft
from cgd.scale import draft_parts, problem_portions, read_parts, teach_parts
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
        with open_engine(f'openai:good@{drafts_at}') as engine, open_teacher(f'openai:good@{teaches_at}', TeacherConfig(max_new_tokens=16)) as served:
            parts = draft_parts((rows[:20] for rows in problem_portions('val', 400)), engine, store, SampleConfig(max_new_tokens=16), tmp_path/'drafts')
            again = teach_parts(parts, served, store, tmp_path/'traces')
        assert next(read_parts(again)) == traces                                                    # in parts, too, and from the store
        assert (sum(map(len, student.seen.values())), sum(map(len, teacher.seen.values()))) == (20, 40)


@pytest.mark.skipif(not find_spec('vllm'), reason='vLLM is not installed')
def test_a_real_vllm_server(tiny_student, tmp_path, long):
    if not long: pytest.skip('starts `vllm serve`: with --long')
    log = open(tmp_path/'serve.log', 'w')
    env = os.environ | dict(VLLM_CPU_KVCACHE_SPACE='1', VLLM_CPU_OMP_THREADS_BIND='0', HF_HUB_OFFLINE='1', VLLM_NO_USAGE_STATS='1')
    command = [str(Path(sys.executable).parent/'vllm'), 'serve', tiny_student, '--host', '127.0.0.1', '--port', '8799', '--served-model-name', 'student', '--dtype', 'float32', '--enforce-eager']
    server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        end = time.time() + 400
        while True:
            assert server.poll() is None and time.time() < end, (tmp_path/'serve.log').read_text()[-3000:]
            try: urllib.request.urlopen('http://127.0.0.1:8799/health', timeout=2); break
            except (urllib.error.URLError, ConnectionError, TimeoutError): time.sleep(1)
        url = 'openai:student@http://127.0.0.1:8799/v1'
        with Store(tmp_path/'s.sqlite') as store: traces = taught(url, url, store, load_problems('val', 4).rows)
        assert all(t['draft'] and t['critique'] and t['refinement'] for t in traces)
        assert {t['draft_finish'] for t in traces} <= {'stop', 'length'} and all(t['draft_tokens'] <= 16 for t in traces)
    finally: server.terminate(); server.wait(60); log.close()
