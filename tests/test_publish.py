"What `cgd publish` writes is read by the Hub's own library and valid in others' schemas, and what it sends is that"
import base64, json, os, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cgd.core import CgdError, read_table
from cgd.plan import RunConfig
from cgd.pipeline import run
from cgd.publish import publish, write_evaluations, write_logbook

FIXTURES = Path(__file__).parent/'fixtures'


@pytest.fixture(scope='module')
def done(tmp_path_factory, tiny_student) -> Path:
    "A whole run of a student of random weights"
    small = dict(max_new_tokens=8)
    cfg = RunConfig.make(dict(
        name='small', folder=str(tmp_path_factory.mktemp('runs')), student=tiny_student, student_engine='hf', teacher=['oracle'], n_problems=4,
        methods=['cgd'], benchmarks=['test:3'], decontaminate=False, draft=small, eval=small, views=dict(keep_truncated=True),
        train=dict(epochs=1, batch_size=4, device_batch_size=2, backend='trl')))
    run(cfg)
    return cfg.path()


@pytest.fixture(scope='module')
def written(done) -> Path:
    said = publish(done, 'org', send=False, license='apache-2.0')
    assert 'Nothing was sent' in said and 'dataset org/cgd-small' in said and 'model org/cgd-small-cgd' in said
    return done/'publish'


def test_a_folder_of_something_else_is_left_alone(done):
    from shutil import copytree
    mine = copytree(done, done.with_name('mine'), ignore=lambda folder, names: ['publish'])
    (mine/'publish').mkdir()
    (mine/'publish'/'notes.txt').write_text('mine')
    with pytest.raises(CgdError, match='publish: is there, and was not made by cgd'): publish(mine, 'org', send=False)
    assert (mine/'publish'/'notes.txt').read_text() == 'mine'


def test_cards_say_the_scores_as_the_hub_reads_them(done, written):
    from huggingface_hub import DatasetCard, ModelCard
    card, results = ModelCard.load(written/'models'/'cgd'/'README.md'), read_table(done/'results.csv')
    row = next(r for r in results if r['method'] == 'cgd')
    found = {e.metric_name: e for e in card.data.eval_results}
    assert found['boxed'].metric_value == pytest.approx(row['boxed']) and found['boxed'].dataset_name == 'test'
    assert (card.data.license, card.data.library_name, card.data.datasets) == ('apache-2.0', 'transformers', ['org/cgd-small'])
    assert DatasetCard.load(written/'data'/'README.md').data.license == 'apache-2.0'
    assert not (written/'models'/'cgd'/'.eval_results').exists()   # three problems of our own are no benchmark of the Hub


def test_the_data_set_loads_with_types(written, monkeypatch):
    monkeypatch.chdir(written)
    from datasets import load_dataset
    for part in ('traces', 'pairs-cgd'):
        data = load_dataset('data', part, split='train')
        assert len(data) == 4 and 'null' not in str(data.features)


def test_another_data_set_of_the_same_name_is_not_taken_from_the_cache(done, written, tmp_path, monkeypatch):
    from datasets import load_dataset
    from cgd.core import write_table
    from cgd.export import write_dataset
    from cgd.pipeline import _read_run
    other = tmp_path/'small'
    (other/'pairs').mkdir(parents=True)
    (other/'config.yaml').write_text((done/'config.yaml').read_text())
    write_table(read_table(done/'traces.parquet')[:3], other/'traces.parquet')
    write_dataset(_read_run(other), [], other/'data', 'cgd-small')
    for folder, rows in {written: 4, other: 3}.items():
        monkeypatch.chdir(folder)
        assert len(load_dataset('data', 'traces', split='train')) == rows


def test_scores_of_whole_benchmarks_go_to_the_leaderboards_form(done):
    from huggingface_hub import eval_result_entries_to_yaml, parse_eval_result_entries
    from cgd.benchmarks import BENCHMARKS
    from cgd.plan import Plan, ProblemSet
    from cgd.publish import _entries, _Published
    from types import SimpleNamespace
    gsm8k, cfg = BENCHMARKS['gsm8k'], RunConfig.load(done/'config.yaml')
    def test(limit): return SimpleNamespace(name='gsm8k', limit=limit, items=SimpleNamespace(benchmark=gsm8k))
    def entries(limit, n=1319):
        made = _Published(SimpleNamespace(cfg=cfg, tests=[test(limit)]), 'org')
        rows = [dict(benchmark='gsm8k', method='cgd', n=n, strict=.25, strict_low=.2, strict_high=.3)]
        object.__setattr__(made, 'scores', lambda method: rows)
        return _entries(made, 'cgd')
    assert entries(200) == entries(None, n=1318) == {}   # a part of it, or all but a row that could not be used
    made, = eval_result_entries_to_yaml(entries(None)['gsm8k'])
    assert made['value'] == 25 and made['dataset']['id'] == gsm8k.hub.partition(':')[0]
    back, = parse_eval_result_entries([dict(data=made)])
    assert (back.dataset_id, back.value) == (made['dataset']['id'], 25) and '1319 problems' in back.notes


def test_results_are_valid_in_every_eval_evers_published_schema(done, written):
    import jsonschema
    score, answer = (json.loads((FIXTURES/f'every_eval_ever{part}.schema.json').read_text()) for part in ('', '_samples'))
    folder = written/'data'/'every_eval_ever'
    file, = folder.rglob('????????-*-????????????.json')
    document = json.loads(file.read_text())
    jsonschema.validate(document, score)
    assert file.relative_to(folder).parts[:4] == ('data', 'test', 'org', 'cgd-small-cgd')
    answers = folder/document['detailed_evaluation_results']['file_path']
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    for row in rows: jsonschema.validate(row, answer)
    assert len(rows) == document['detailed_evaluation_results']['total_rows'] == 3*len(document['evaluation_results'])
    for result in document['evaluation_results']:
        own = [r['evaluation']['score'] for r in rows if r['evaluation_result_id'] == result['evaluation_result_id']]
        assert result['score_details']['score'] == pytest.approx(sum(own)/len(own), abs=1e-6)


def test_every_eval_ever_itself_takes_them(done, tmp_path):
    validate = pytest.importorskip('every_eval_ever.validate', reason='every-eval-ever needs Python 3.12')
    write_evaluations(done, 'org', tmp_path)
    assert validate.main([str(f) for f in tmp_path.rglob('*.json*')]) == 0


def test_each_difference_is_a_page_of_trackios_logbook(done, tmp_path):
    pytest.importorskip('trackio', reason='trackio is not installed')
    from trackio import logbook
    titles = write_logbook(done, tmp_path/'book')
    assert titles == ['cgd answers more of test than base']
    pages = [p['title'] for p in logbook.list_pages(tmp_path/'book'/'.trackio')]
    assert titles[0] in pages and 'points' in logbook.read_logbook(tmp_path/'book'/'.trackio')


class Hub(BaseHTTPRequestHandler):
    "As much of the Hub as making a repository and committing small files takes"
    made, files, deleted = {}, {}, {}
    older = ['every_eval_ever/data/test/older.json', 'notes.md']   # what a repository holds already

    def log_message(self, *_): pass

    def do_GET(self):
        known = self.headers['Authorization'] == 'Bearer hf_secret'
        if known and self.path.endswith('whoami-v2'): self.say(dict(name='someone', type='user'))
        elif known and '/tree/' in self.path: self.say([dict(type='file', path=path, size=1, oid='0'*40) for path in self.older])
        else: self.say(dict(error='Repository not found'), 404)

    def do_POST(self):
        size, body = int(self.headers.get('Content-Length') or 0), b''
        if size: body = self.rfile.read(size)
        else:
            while n := int(self.rfile.readline(), 16): body += self.rfile.read(n); self.rfile.readline()
        if self.path == '/api/repos/create':
            given = json.loads(body)
            name = f'{given.get("organization") or "someone"}/{given["name"]}'
            if name.startswith('foreign/'): return self.say(dict(error='You have no rights to write to foreign'), 403)
            self.made[name] = given
            kind = 'datasets/' if given.get('type') == 'dataset' else ''
            self.say(dict(url=f'http://127.0.0.1:{self.server.server_port}/{kind}{name}', name=name))
        elif '/preupload/' in self.path:
            self.say(dict(files=[dict(path=f['path'], uploadMode='regular', shouldIgnore=False, oid=None) for f in json.loads(body)['files']]))
        elif '/commit/' in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            repository = self.path.split('/commit/')[0].split('/', 3)[3]
            self.files[repository] = {x['value']['path']: base64.b64decode(x['value']['content']) for x in lines if x['key'] == 'file'}
            self.deleted[repository] = [x['value']['path'] for x in lines if x['key'] == 'deletedFile']
            kind = 'datasets/' if '/datasets/' in self.path else ''
            place = f'http://127.0.0.1:{self.server.server_port}/{kind}{repository}/commit/{"1"*40}'
            self.say(dict(commitUrl=place, commitOid='1'*40, success=True))
        else: self.say({})

    def say(self, what, code=200):
        body = json.dumps(what).encode()
        self.send_response(code)
        for k, v in {'Content-Type': 'application/json', 'Content-Length': str(len(body))}.items(): self.send_header(k, v)
        self.end_headers()
        self.wfile.write(body)


def sent(done, hub, *words, **env):
    "`cgd publish` in a process of its own, for the Hub's address is read when its library is imported"
    own = os.environ | dict(HF_ENDPOINT=f'http://127.0.0.1:{hub.server_port}', HF_HUB_OFFLINE='0', HF_TOKEN='hf_secret', HF_HUB_DISABLE_XET='1') | env
    command = [sys.executable, '-c', 'from cgd.cli import main; raise SystemExit(main())', 'publish', str(done), *words]
    return subprocess.run(command, env=own, capture_output=True, text=True)


def test_what_is_sent_is_what_was_written(done, written):
    hub = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        said = sent(done, hub, '--private')
        assert said.returncode == 0, said.stderr
        assert 'datasets/someone/cgd-small' in said.stdout and 'hf_secret' not in said.stdout + said.stderr
        assert Hub.made['someone/cgd-small-cgd']['visibility'] == 'private'
        for repository, folder in {'someone/cgd-small': 'data', 'someone/cgd-small-cgd': 'models/cgd'}.items():
            own = {str(f.relative_to(written/folder)): f.read_bytes() for f in (written/folder).rglob('*') if f.is_file()}
            assert Hub.files[repository] == own
            assert Hub.deleted[repository] == Hub.older[:1]   # scores of before; the owner's notes stay
        refused = sent(done, hub, '--to', 'foreign')
        assert refused.returncode == 1 and 'foreign/cgd-small' in refused.stderr and '403' in refused.stderr
        assert 'Traceback' not in refused.stderr and 'hf_secret' not in refused.stderr
        unknown = sent(done, hub, HF_HUB_OFFLINE='1')
        assert unknown.returncode == 1 and 'HF_HUB_OFFLINE is set' in unknown.stderr
    finally: hub.shutdown()


def test_a_run_without_students_is_one_clear_error(tmp_path):
    RunConfig.make(dict(name='bare', folder=str(tmp_path), methods=[])).save(tmp_path/'bare'/'config.yaml')
    with pytest.raises(CgdError, match='no trained student here'): publish(tmp_path/'bare', 'org', send=False)
