"Before a run: a teacher or student that could not answer is named in seconds; what is left is counted by real keys; the time is near what runs took"
import json
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

import cgd.estimate as estimate
from cgd.cli import main
from cgd.core import CgdError, content_hash, read_table, shipped, write_atomic
from cgd.endpoint import ask_one_token
from cgd.engines import check_engine, open_engine
from cgd.estimate import _SHOWN, _lessons, _line, _Task, estimate_run
from cgd.loop import retry_requests
from cgd.models import SHAPES, model_shape
from cgd.methods import _ORDER, METHODS, ViewConfig
from cgd.pipeline import open_student, run
from cgd.plan import Plan, RunConfig, compared_texts
from cgd.preferences import judge_messages
from cgd.recipe import TrainConfig
from cgd.store import SampleConfig, Store, sessions
from cgd.teacher import REWRITES, DetectingTeacher, TeacherConfig, critique, critique_messages, detect, load_preset, refine_messages, rewrite_messages, teach
from cgd.views import filter_rows
from test_bad_input import NO_MOUNTS, model_like, problems, row
from test_detect import CLEAN, FLAGGED, Detector, rows_of

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
    cfg = RunConfig.load(shipped(f'configs/{config}'))
    engine = cfg.engine.model_copy(update=dict(dtype=run['sessions'][0]['dtype']))   # what this machine would choose may be another
    cfg = cfg.model_copy(update=dict(folder='/nowhere', engine=engine) | changes)
    return sum(line['seconds'] for line in estimate_run(Plan(cfg), 'report', open_student, [run]))


def test_the_default_run_is_predicted_from_another_of_it():
    before, after = read_table(shipped('data/results/default_run.csv'))
    assert 1/1.5 < total('cpu.yaml', RUNS[0], teacher=('oracle',))/after['wall_s'] < 1.5


# ---- every stage of every method is in the estimate ---------------------------------------------

ASKED = [m.name for m in METHODS.values()] + ['cft with views.min_help']


def plan_of(name, tiny_student, folder):
    "A run of a method with a language model as teacher and judge"
    method, _, helped = name.partition(' with ')
    return Plan(RunConfig(name='priced', folder=str(folder), student=tiny_student, student_engine='hf', methods=(method,), n_problems=4, benchmarks=('test:2',), teacher=f'hf:{tiny_student}',
                          teach=dict(detect=method == 'dcr'), views=dict(min_help=0 if helped else None)))


@pytest.mark.parametrize('name', ASKED)
def test_each_stage_of_a_method_is_priced(name, tiny_student, tmp_path):
    planned = plan_of(name, tiny_student, tmp_path)
    priced = {r['stage'] for r in estimate_run(planned, 'refine', open_student, []) if r['left'] and r['read'] and r['seconds'] and r['engine']}
    assert priced >= planned.stages | {'draft', 'critique', 'refine'}


def test_together_the_methods_have_every_stage(tiny_student, tmp_path):
    assert set().union(*(plan_of(name, tiny_student, tmp_path).stages for name in ASKED)) == {*_ORDER}


def test_groups_that_taught_nothing_slow_no_forecast_and_a_rival_tells_nothing_of_fine_tuning():
    "A training that skipped half of its tokens is as fast as it is per operation of all of them; memory is that of `rl`"
    plan = Plan(RunConfig(methods=('cgd', 'grpo')))
    record = dict(view='grpo', tokens=1000, teacher_tokens=0, pairs=10, seconds=50., device='cpu', config=plan.cfg.rl.model_dump())
    def line(name, **more):
        with pytest.MonkeyPatch.context() as m:
            m.setattr(estimate, 'read_trainings', lambda plan: dict(grpo=record | more))
            shape = SHAPES['smollm2']
            run = dict(run='before', trainings=estimate._trainings(plan, shape, 134.5e6), problems='')
        return estimate._training_line(plan, plan.trainings[name], 10, dict.fromkeys(('problem', 'draft', 'critique', 'refinement'), 50.), [run])
    assert line('grpo', skipped_tokens=500)['seconds'] == line('grpo')['seconds'] and line('grpo')['doubt'] < line('cgd')['doubt']


@pytest.mark.parametrize('name, who', [('rlfr', 'teacher'), ('refcritic', 'student'), ('grpo', None)])
def test_what_a_training_asks_is_priced(name, who, tiny_student, tmp_path):
    "Once for each try at most; the oracle teacher costs nothing, and what is trained asks no more"
    planned = plan_of(name, tiny_student, tmp_path)
    def asked(plan): return [(r['left'], r['read'] > 0, r['written'] > 0) for r in estimate_run(plan, 'train', open_student, []) if r['stage'] == 'asked']
    tries = planned.cfg.rl.steps*planned.cfg.rl.prompts*planned.cfg.rl.n*(4 if who == 'student' else 1)
    assert asked(planned) == ([(tries, True, True)] if who else [])
    if who == 'teacher': assert asked(Plan(planned.cfg.model_copy(update=dict(teacher=('oracle',))))) == [(tries, False, False)]
    write_atomic(planned.cfg.path('models', name, 'train.json'), '{}')
    assert asked(planned) == []


def test_the_table_of_drafts_is_made_once(tiny_student, tmp_path, monkeypatch):
    "A training learns from each review of a draft that is not held out; two of each problem are drafted"
    calls, make = [], estimate._drafts
    monkeypatch.setattr(estimate, '_drafts', lambda *args: calls.append(1) or make(*args))
    planned = plan_of('cgd', tiny_student, tmp_path)
    planned = Plan(planned.cfg.model_copy(update=dict(draft=SampleConfig(n=2, temperature=1.), validation='val:3')))
    line, = [r for r in estimate_run(planned, 'train', open_student, []) if r['stage'] == 'train']
    assert (line['rows'], len(calls)) == (2*4, 1)


def test_a_training_on_soft_targets_holds_the_student_twice(tiny_student, tmp_path):
    "Where all weights change; an adapter is switched off instead"
    def gib(name, tuning):
        planned = plan_of(name, tiny_student, tmp_path)
        planned = Plan(planned.cfg.model_copy(update=dict(train=TrainConfig(tuning=tuning))))
        return estimate._memory(planned, [dict(who=name, kind='train', method=name, rows=9, left=9, read=900.)], [])[f'train {name}']
    assert gib('soft', 'full') - gib('dsft_refined', 'full') == pytest.approx(4*sum(model_shape(tiny_student).counts())/2**30) and gib('soft', 'lora') == gib('dsft_refined', 'lora')


def test_what_waits_shows_what_it_will_show(tiny_student):
    "Each stage's own words, made of marks"
    row = dict(problem_id='p', row_id='r', sample=0, student='s', prompt='PROBLEM', draft='DRAFT', critique='CRITIQUE', direct='DIRECT')
    preset = load_preset('paper')
    said = dict(critique=critique_messages(preset, row), refine=refine_messages(preset, row), retry=retry_requests(row, SampleConfig())[0].messages, prefer=judge_messages(row, 'draft', 'direct'),
                **{c: rewrite_messages(c, row) for c in REWRITES})
    marks = {stage: {c for c in ('draft', 'critique', 'direct') if any(c.upper() in t['content'] for t in turns)} for stage, turns in said.items()}
    assert marks == {stage: {*shown} for stage, shown in _SHOWN.items() if stage not in ('perplexity', 'asked')}
    sizes = dict.fromkeys(('problem', 'solution', 'draft', 'critique', 'refine', 'direct', *REWRITES), 100.)
    engine = open_engine(f'hf:{tiny_student}')
    read = {s: _line(_Task(s, '', 'x', engine, waiting=1, cap=8), dict(sizes), [])['read'] for s in ('direct', *marks)}
    assert {s: read[s] - read['direct'] for s in marks} == {s: 120 + 100*len(marks[s]) for s in marks}


# ---- a teacher that detects first -----------------------------------------------------------------

def priced(teacher, rows, store, stages=('critique', 'refine'), given={}) -> dict:
    "By stage: found in the store, asked now, waiting"
    t, dealt = SimpleNamespace(oracle=False, open=lambda: nullcontext(teacher)), [(r, given) for r in rows]
    return {task.stage: (len(task.found), len(task.asked), task.waiting) for task in _lessons(t, dealt, list(stages), store)}


def test_a_detecting_teacher_is_asked_once_a_draft_once_a_flagged_sentence_and_once_a_flagged_draft(tmp_path):
    engine = Detector()
    teacher, rows = DetectingTeacher(engine, TeacherConfig(detect=True)), rows_of(FLAGGED, CLEAN, 'unread 8', '')
    with Store(tmp_path/'s.sqlite') as store:
        assert priced(teacher, [r | dict(draft=None) for r in rows], store) == dict(critique=(0, 0, 8), refine=(0, 0, 4))   # nothing is known: one sentence each
        assert priced(teacher, rows, store) == dict(critique=(0, 3, 3), refine=(0, 0, 3))      # an empty draft is not asked about
        assert priced(teacher, rows, store, ()) == {} and priced(teacher, rows, store, ('critique',)) == dict(critique=(0, 3, 3))
        assert priced(teacher, rows, store, given=dict(critique='It is 8.')) == dict(critique=(0, 0, 0), refine=(0, 4, 0))   # critiques of a table
        detect(critiqueless(rows, teacher), teacher, store)
        assert priced(teacher, rows, store) == dict(critique=(3, 2, 0), refine=(0, 0, 1))      # two sentences of one draft are flagged
        critique(rows, teacher, store)
        assert priced(teacher, rows, store) == dict(critique=(5, 0, 0), refine=(0, 1, 0))
        teach(rows, teacher, store)
        assert priced(teacher, rows, store) == dict(critique=(5, 0, 0), refine=(1, 0, 0))      # by real keys: nothing is left
        assert {s['stage'] for s in sessions(store)} == {'critique', 'refine'} and sum(s['requests'] for s in sessions(store)) == 6 == len(engine.asked)


def critiqueless(rows, teacher):
    "Rows as `critique` names them"
    return [r | dict(row_id=content_hash(r['problem_id'], r['sample'], r['student'], teacher.name, teacher.preset)) for r in rows]


def test_drafts_are_scored_once_and_what_is_scored_is_found(tiny_student, tmp_path):
    cfg = plan_of('cdf', tiny_student, tmp_path).cfg.model_copy(update=dict(draft=SampleConfig(max_new_tokens=4), n_problems=3))
    run(cfg, 'draft')
    line, = [r for r in estimate_run(Plan(cfg), 'draft', open_student, []) if r['stage'] == 'perplexity']
    with Store(cfg.path('store.sqlite')) as store: asked = {s['stage']: s['requests'] for s in sessions(store)}
    assert (line['held'], line['left'], line['seconds']) == (asked['perplexity'], 0, 0) and asked['perplexity'] == 3


def test_a_filter_that_compares_texts_has_them_scored_once(tiny_student, tmp_path):
    "And only those of methods that learn another form of a text"
    cfg = plan_of('dsft_short', tiny_student, tmp_path).cfg.model_copy(update=dict(draft=SampleConfig(max_new_tokens=4), n_problems=3, views=ViewConfig(fluent=True, keep_truncated=True)))
    def scored(cfg): return [(r['rows'], r['held'], r['left']) for r in estimate_run(Plan(cfg), 'pairs', open_student, []) if r['stage'] == 'perplexity']
    assert scored(cfg) == [(3, 0, 3)]*3   # draft, direct, direct_short
    for _ in range(2):
        run(cfg, 'refine')
        with Store(cfg.path('store.sqlite')) as store: assert sum(s['requests'] for s in sessions(store) if s['stage'] == 'perplexity') == 9
    assert scored(cfg) == [(3, 3, 0)]*3
    rows = read_table(cfg.path('traces.parquet'))
    unlikely = {r['row_id'] for r in rows if r['direct_short_perplexity'] >= r['direct_perplexity']}
    kept, also = ({r['row_id'] for r in filter_rows(rows, 'dsft_short', v)[0]} for v in (cfg.views, cfg.views.model_copy(update=dict(fluent=False))))
    assert kept == also - unlikely
    assert not any('perplexity' in Plan(cfg.model_copy(update=dict(methods=(m,)))).stages for m in ('dsft', 'sft'))


def test_filters_have_their_stages_for_methods_of_own_tries_too(tiny_student, tmp_path):
    "The rows of these are filtered as well"
    planned = Plan(plan_of('rlfr_stored', tiny_student, tmp_path).cfg.model_copy(update=dict(methods=('rlfr_stored', 'critique_grpo', 'sdft'), views=ViewConfig(fluent=True, min_help=0))))
    assert compared_texts(planned) == ('refinement',) and planned.stages >= {'retry', 'perplexity'}
