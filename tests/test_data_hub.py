"A dataset of the Hub, from a server on this machine that answers as the Hub does: what is fetched, and what is left without it."
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

ROWS = [json.dumps(dict(question=f'{n}+{n}?', answer=f'{n}+{n}={2 * n}\n#### {2 * n}')) for n in range(6)]
CARD = '''---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*.jsonl}
  - {split: test, path: main/test.jsonl.gz}
- {config_name: two, data_files: two/*.json}
---
# Sums
'''
FILES = {'README.md': CARD.encode(), 'main/train-0.jsonl': '\n'.join(ROWS[:3]).encode(),
         'main/train-1.jsonl': '\n'.join([*ROWS[3:], '{"question": "torn']).encode(),
         'main/test.jsonl.gz': gzip.compress(ROWS[5].encode()), 'two/x.json': f'[{", ".join(ROWS)}]'.encode()}
API, REVISION = '/api/datasets/me/sums', 'a' * 40


def entry(path:str) -> dict:
    if path not in FILES: return dict(type='directory', path=path, size=0, oid='d' * 40)
    return dict(type='file', path=path, size=len(FILES[path]), oid=hashlib.sha1(FILES[path]).hexdigest())


class Hub(BaseHTTPRequestHandler):
    protocol_version, fetched = 'HTTP/1.1', []

    def log_message(self, *args): pass

    def answer(self, code:int, body:bytes=b'', **headers):
        self.send_response(code)
        for name, value in (headers | dict(Content_Length=str(len(body)))).items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)

    def do_GET(self):
        path, _, query = self.path.partition('?')
        if re.fullmatch(rf'{API}(/revision/\w+)?', path):
            return self.answer(200, json.dumps(dict(id='me/sums', sha=REVISION, private=False, gated=False, tags=[],
                                                    siblings=[dict(rfilename=f) for f in FILES])).encode())
        if m := re.fullmatch(rf'{API}/tree/\w+/?(.*)', path):
            inside = [f[len(m[1]):].lstrip('/') for f in FILES if f.startswith(m[1])]
            names = {f if 'ecursive=True' in query else f.partition('/')[0] for f in inside}
            names |= {f.partition('/')[0] for f in inside}
            return self.answer(200, json.dumps([entry('/'.join(filter(None, (m[1], n)))) for n in sorted(names)]).encode())
        m = re.fullmatch(r'/datasets/me/sums/resolve/\w+/(.*)', path)
        if not m or m[1] not in FILES:
            return self.answer(404, X_Error_Code='EntryNotFound' if m else 'RepoNotFound', X_Repo_Commit=REVISION)
        if self.command == 'GET': self.fetched.append(m[1])
        self.answer(200, FILES[m[1]], ETag=f'"{hashlib.sha1(FILES[m[1]]).hexdigest()}"', X_Repo_Commit=REVISION)

    do_HEAD = do_GET

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        there = {p for p in asked['paths'] if any(f == p or f.startswith(f'{p}/') for f in FILES)}
        self.answer(200, json.dumps([entry(p) for p in there]).encode())


@pytest.fixture
def read(tmp_path):
    "Read some of a set in a process of its own, as the address of the Hub is settled when its library is loaded"
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.fetched.clear()
    def call(*specs, limit=None, offline='0'):
        env = os.environ | dict(HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}', HF_HUB_OFFLINE=offline,
                                HF_HOME=str(tmp_path/'home'), HF_HUB_DISABLE_XET='1')
        for name in ('HF_DATASETS_CACHE', 'HF_HUB_CACHE', 'HF_TOKEN'): env.pop(name, None)
        code = f'''
import json
from cgd.data import load_problems, CgdError
for spec in {specs}:
    try:
        problems = load_problems(spec, {limit})
        print(json.dumps([[r['reference'] for r in problems], problems.skipped]))
    except CgdError as e: print(json.dumps(str(e)))
'''
        done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]
    yield call
    server.shutdown()
    server.server_close()


def test_a_set_of_the_hub(read):
    "Files come one at a time as they are needed, are read as one's own, and are there without the Hub"
    assert read('hub:me/sums:main', limit=2) == [[['0', '2'], []]]
    assert 'main/train-0.jsonl' in Hub.fetched and 'main/train-1.jsonl' not in Hub.fetched
    whole, test, cut, two, no_config, no_split, gone = read(
        'hub:me/sums:main', 'hub:me/sums:main:test', 'hub:me/sums:main:train[4:6]', 'hub:me/sums:two', 'hub:me/sums',
        'hub:me/sums:main:dev', 'hub:me/none')
    golds, skipped = whole
    assert golds == ['0', '2', '4', '6', '8', '10']
    assert skipped[0].startswith('hub:me/sums/main/train-1.jsonl:4: broken line')
    assert test[0] == ['10'] and cut[0] == ['8', '10'] and two[0] == golds
    assert "['main', 'two']; write hub:me/sums:CONFIG" in no_config and '\n' not in no_config
    assert no_split == 'hub:me/sums: no split `dev`; it has train, test' and "'me/none' doesn't exist" in gone
    again, never = read('hub:me/sums:main', 'hub:me/other', offline='1')
    assert again == whole and "Couldn't reach 'me/other'" in never
