"Before a run: a teacher or student that could not answer is named in seconds; what is left is counted by real keys; the time is near what runs took"
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from cgd.cli import main
from cgd.core import CgdError, read_table, shipped
from cgd.endpoint import ask_one_token
from cgd.engines import check_engine, open_engine
from cgd.estimate import estimate_run
from cgd.pipeline import open_student
from cgd.plan import Plan, RunConfig
from cgd.store import Store, sessions
from test_bad_input import NO_MOUNTS, model_like, problems, row

RUNS = [json.loads(line) for line in (Path(__file__).parent/'fixtures'/'past_runs.jsonl').read_text().splitlines()]


class Handler(BaseHTTPRequestHandler):
    "Two models, and one key where it wants any"
    def log_message(self, *args): pass

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path != '/v1/models': return self.answer(404, dict(detail='Not Found'))
        self.answer(200, dict(object='list', data=[dict(id=m, object='model') for m in ('good', 'other-70b')]))

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        if self.path != '/v1/chat/completions': return self.answer(404, dict(detail='Not Found'))
        self.server.asked.append(asked)
        if self.server.key and self.headers['Authorization'] != f'Bearer {self.server.key}':
            return self.answer(401, dict(error=dict(message='Incorrect API key provided')))
        if asked['model'] != 'good': return self.answer(404, dict(error=dict(message=f'The model `{asked["model"]}` does not exist.')))
        if self.server.busy: return self.answer(429, dict(error=dict(message='rate limit')))
        message = dict(role='assistant', content='2 it is.\nConclusion: right')
        self.answer(200, dict(choices=[dict(index=0, finish_reason='stop', message=message)], usage=dict(prompt_tokens=9, completion_tokens=7)))


@pytest.fixture
def serve():
    servers = []
    def start(key='', busy=False):
        servers.append(server := ThreadingHTTPServer(('127.0.0.1', 0), Handler))
        server.key, server.busy, server.asked = key, busy, []
        threading.Thread(target=server.serve_forever, args=(.02,), daemon=True).start()
        return server, f'http://127.0.0.1:{server.server_port}/v1'
    yield start
    for server in servers: server.shutdown(); server.server_close()


@pytest.fixture
def cgd(tmp_path, capsys, tiny_student):
    "The command line on a tiny student in a folder of its own: exit code and all that it said"
    def call(command, *words, student=tiny_student, engine='hf'):
        file = problems(tmp_path, *(row(f'p{i}', f'What is {i} + 1?') for i in range(5)))
        words = [command, 'cpu', '--teacher', 'oracle', '--problems', file, '--folder', str(tmp_path), '--student', student, '--student-engine', engine,
                 '--draft.max-new-tokens', '4', '--benchmarks', 'test:3', '--eval.max-new-tokens', '4', *words]
        try: code = main(words)
        except SystemExit as e: code = e.code
        said = capsys.readouterr()
        return code, said.out + said.err
    return call


def drafted(tmp_path) -> int:
    with Store(tmp_path/'cpu'/'store.sqlite') as store: return len(store)


@pytest.mark.parametrize('key, spec, words', [
    ('right', 'openai:good@{url}', ('teacher: ', '401: Incorrect API key', 'set OPENAI_API_KEY to a key that it takes')),
    ('', 'openai:goo@{url}', ('teacher: ', '404: The model `goo` does not exist', 'it has good, other-70b')),
    ('', 'openai:good@http://127.0.0.1:9/v1', ('teacher: ', 'no answer from http://127.0.0.1:9/v1', 'is the server up?'))])
def test_a_teacher_that_cannot_answer_is_named_before_anything_is_drafted(cgd, serve, tmp_path, monkeypatch, key, spec, words):
    monkeypatch.setenv('OPENAI_API_KEY', 'wrong')
    _, url = serve(key)
    start = time.monotonic()
    code, said = cgd('refine', '--teacher', spec.format(url=url))
    assert code == 1 and 'Traceback' not in said and all(w in said.splitlines()[-1] for w in words), said
    assert drafted(tmp_path) == 0 and not (tmp_path/'cpu'/'drafts.parquet').exists() and time.monotonic() - start < 60


def test_what_time_may_mend_is_no_fault_and_one_of_two_servers_suffices(serve, capsys):
    server, url = serve(busy=True)
    ask_one_token(open_engine(f'openai:good@{url}'))
    assert [a['max_tokens'] for a in server.asked] == [1]
    ask_one_token(open_engine(f'openai:good@{url},http://127.0.0.1:9/v1'))
    assert 'the other servers go on' in capsys.readouterr().err
    with pytest.raises(CgdError, match='404: Not Found.*address is whole'): ask_one_token(open_engine(f'openai:good@{url.removesuffix("/v1")}'))


def table(said) -> dict[tuple, list[int]]:
    "Rows, held and left by stage, of a dry run"
    lines = [line.split() for line in said.splitlines()]
    return {(w[0], w[1]): list(map(int, w[-7:-4])) for w in lines if w and w[0] in ('draft', 'critique', 'refine', 'evaluate')}


def test_what_is_left_is_what_the_run_asks_and_a_run_that_is_done_needs_no_server(cgd, serve, tmp_path):
    server, url = serve()
    taught = '--teacher', f'openai:good@{url}'
    code, said = cgd('refine', '--dry-run', '--prices', '1,2', *taught)
    assert code == 0 and not (tmp_path/'cpu').exists() and not server.asked, said
    assert list(table(said).values()) == [[5, 0, 5]]*3 and 'price:  about 0.0' in said and 'n_problems' in said
    assert cgd('refine', *taught)[0] == 0
    with Store(tmp_path/'cpu'/'store.sqlite') as store: asked = {s['stage']: s['requests'] for s in sessions(store)}
    assert asked == dict(draft=5, critique=5, refine=5) and len(server.asked) == 1 + 10   # one token before
    server.shutdown(); server.server_close()
    code, said = cgd('refine', '--dry-run', *taught)
    assert code == 0 and list(table(said).values()) == [[5, 5, 0]]*3 and 'price' not in said, said
    assert cgd('refine', *taught)[0] == 0   # offline


def test_the_untrained_students_answers_are_counted_too(cgd, tmp_path):
    assert table(cgd('eval', '--methods', '--dry-run')[1]) == {('evaluate', 'base'): [3, 0, 3]}
    assert cgd('eval', '--methods')[0] == 0
    assert table(cgd('eval', '--methods', '--dry-run')[1]) == {('evaluate', 'base'): [3, 3, 0]}


@pytest.mark.parametrize('words, said', [(('--dry-run', '--prices', '1'), 'write it as --prices 0.15,0.6'), (('--prices', '1,2'), '--prices is for --dry-run')])
def test_prices(cgd, words, said):
    code, out = cgd('draft', *words)
    assert code and said in out and 'Traceback' not in out


def test_a_model_without_weights_or_of_an_unknown_kind(tiny_model, tmp_path):
    bare, strange, lost = (model_like(tmp_path/name, tiny_model, **more) for name, more in dict(bare={}, strange=dict(model_type='mine'), lost={}).items())
    (tmp_path/'bare'/'model.safetensors').unlink()
    (tmp_path/'lost'/'model.safetensors.index.json').write_text(json.dumps(dict(weight_map=dict(a='model-00001-of-2.safetensors'))))
    for folder, words in ((bare, 'no weights in'), (strange, 'no such type of model'), (lost, 'model-00001-of-2.safetensors; fetch the model anew')):
        with pytest.raises(CgdError, match=words): check_engine(open_engine(f'hf:{folder}'))
    check_engine(open_engine(f'hf:{tiny_model}'))


@pytest.mark.skipif(not find_spec('vllm'), reason='vLLM is not installed')
def test_a_model_that_vllm_does_not_run(cgd, tmp_path, tiny_student):
    "vLLM itself is asked, as its list has no such name"
    own = model_like(tmp_path/'own', tiny_student, architectures=['MineForCausalLM'])
    code, said = cgd('draft', student=own, engine='vllm')
    assert code == 1 and said.strip().splitlines()[-1] == f'cgd: student: vllm:{own}: this vLLM runs no MineForCausalLM; set --student-engine hf'
    assert drafted(tmp_path) == 0


@pytest.mark.skipif(NO_MOUNTS, reason='this machine lets nobody mount')
def test_a_disk_too_small_for_the_students(tiny_student, tmp_path):
    (tmp_path/'run').mkdir()
    command = f'cgd run cpu --folder run --student {tiny_student} --student-engine hf --n-problems 4 --benchmarks test:2'
    start = f'{sys.executable} -c "import sys; from cgd.cli import main; sys.exit(main())"{command.removeprefix("cgd")}'
    done = subprocess.run(['unshare', '-rm', 'sh', '-c', f'mount -t tmpfs -o size=3m tmpfs run && {start}'], cwd=tmp_path, text=True, capture_output=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith('cgd: folder: the students of this run take about') and 'set --folder' in last, done.stderr


def total(config, run, **changes) -> float:
    "Seconds that a run should take by what another took"
    cfg = RunConfig.load(shipped(f'configs/{config}')).model_copy(update=dict(folder='/nowhere') | changes)
    return sum(line['seconds'] for line in estimate_run(Plan(cfg), 'report', open_student, [run]))


def test_the_default_run_is_predicted_from_another_of_it():
    before, after = read_table(shipped('data/results/default_run.csv'))
    assert 1/1.5 < total('cpu.yaml', RUNS[0], teacher=('oracle',))/after['wall_s'] < 1.5
