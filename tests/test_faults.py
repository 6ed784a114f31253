"The endpoint engine against a server on loopback that misbehaves in every way a server can"
import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cgd.core import CgdError
from cgd.store import Request, Store, sessions
from cgd.generate import complete
from cgd.engines import open_engine

FAULTS = 'ok', '429', '500', 'half a body', 'not json', 'json of another shape', 'no finish_reason', 'slow', 'dropped'


class Server(ThreadingHTTPServer):
    "Answers with faults drawn by seed; knows the model `good` only"
    request_queue_size, daemon_threads = 256, True

    def __init__(self, faults=('ok',), share=0.):
        super().__init__(('127.0.0.1', 0), Handler)
        self.faults, self.share, self.draw, self.lock = faults, share, random.Random(0), threading.Lock()
        self.seen, self.keys, self.busy, self.most_busy = {}, set(), 0, 0

    def handle_error(self, *args): pass   # the client hangs up on purpose


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass

    def answer(self, status, body, headers=(), promised=None):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in dict([('Content-Type', 'application/json'), *headers]).items(): self.send_header(name, value)
        self.send_header('Content-Length', str(promised or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        server, asked = self.server, json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        question = asked['messages'][-1]['content']
        with server.lock:
            server.busy += 1
            server.most_busy = max(server.busy, server.most_busy)
            server.keys.add(self.headers['Authorization'])
            fault = server.draw.choice(server.faults) if server.draw.random() < server.share else 'ok'
            server.seen.setdefault(question, []).append((fault, time.monotonic()))
        try: self.misbehave(fault, asked, question)
        finally:
            with server.lock: server.busy -= 1

    def misbehave(self, fault, asked, question):
        good = dict(id='x', object='chat.completion', created=0, model='good', usage=dict(prompt_tokens=5, completion_tokens=2, total_tokens=7),
                    choices=[dict(index=0, finish_reason='stop', message=dict(role='assistant', content=f'answer to {question}'))])
        if asked['model'] != 'good': return self.answer(404, dict(error=dict(message=f'model {asked["model"]} does not exist')))
        if question == 'too long': return self.answer(400, dict(error=dict(message="This model's maximum context length is 8 tokens", code='context_length_exceeded')))
        if question == 'no context': return self.answer(400, dict(error=dict(message='tools are not allowed in this context')))
        if question == 'surrogate': good['choices'][0]['message']['content'] = 'half a \ud83d smile'
        if fault == '429': return self.answer(429, dict(error=dict(message='slow down')), [('Retry-After', '0.3')])
        if fault == '500': return self.answer(500, dict(error=dict(message='oh no')))
        if fault == 'half a body':
            whole = json.dumps(good).encode()
            self.answer(200, whole[:len(whole) // 2], promised=len(whole))
            self.close_connection = True
            return
        if fault == 'not json': return self.answer(200, b'{"id": "x", "choices": [')
        if fault == 'json of another shape': return self.answer(200, dict(hello='world'))
        if fault == 'no finish_reason': good['choices'][0]['finish_reason'] = None
        if fault == 'slow': time.sleep(.2)
        if fault == 'dropped':
            self.close_connection = True
            return self.connection.close()
        self.answer(200, good)


@pytest.fixture
def serve():
    servers = []
    def start(*args):
        servers.append(Server(*args))
        threading.Thread(target=servers[-1].serve_forever, args=(.02,), daemon=True).start()
        return servers[-1], f'http://127.0.0.1:{servers[-1].server_port}/v1'
    yield start
    for server in servers: server.shutdown(); server.server_close()


def ask(n): return [Request(f'p{i}', [{'role': 'user', 'content': f'question {i}'}]) for i in range(n)]


def test_a_thousand_requests_through_every_fault(serve, tmp_path):
    server, url = serve(FAULTS, .4)
    with open_engine(f'openai:good@{url}', max_retries=12) as engine, Store(tmp_path/'s.sqlite') as store:
        came = complete(engine, ask(1000), store)
        assert [c.text for c in came] == [f'answer to question {i}' for i in range(1000)]
        assert len(store) == 1000 and sessions(store)[0]['requests'] == 1000
        assert {c.finish_reason for c in came} == {'stop'}
    happened = [fault for tries in server.seen.values() for fault, _ in tries]
    assert set(happened) == set(FAULTS)                                       # each fault did occur
    assert all(tries[-1][0] in ('ok', 'slow') for tries in server.seen.values())
    assert all(fault not in ('ok', 'slow') for tries in server.seen.values() for fault, _ in tries[:-1])  # and no good answer was asked for twice


def test_many_at_once_and_no_more_than_the_limit(serve, tmp_path):
    server, url = serve(('slow',), 1.)   # so that a busy machine has time to send the next ones
    with open_engine(f'openai:good@{url}') as engine, Store(tmp_path/'s.sqlite') as store: complete(engine, ask(96), store)
    assert 16 < server.most_busy <= 32


def test_retry_after_is_honoured(serve, tmp_path):
    server, url = serve(('429',), .5)
    with open_engine(f'openai:good@{url}') as engine, Store(tmp_path/'s.sqlite') as store: complete(engine, ask(40), store)
    waits = [after - before for tries in server.seen.values() for (_, before), (_, after) in zip(tries, tries[1:])]
    assert len(waits) > 10 and min(waits) >= .29


def test_a_wrong_model_is_one_clear_error(serve, tmp_path):
    _, url = serve()
    with open_engine(f'openai:bad@{url}') as engine, Store(tmp_path/'s.sqlite') as store:
        with pytest.raises(CgdError, match='model bad does not exist'): complete(engine, ask(100), store)


def test_a_permanent_fault_keeps_what_came(serve, tmp_path):
    server, url = serve()
    with open_engine(f'openai:good@{url}', concurrency=1) as engine, Store(tmp_path/'s.sqlite') as store:
        answer = Handler.misbehave
        def then_revoked(handler, fault, asked, question):
            if question == 'question 60': return handler.answer(401, dict(error=dict(message='key revoked')))
            answer(handler, fault, asked, question)
        Handler.misbehave = then_revoked
        try:
            with pytest.raises(CgdError, match='key revoked.*are kept'): complete(engine, ask(100), store)
        finally: Handler.misbehave = answer
        assert len(store) == 60
        complete(engine, ask(100), store)
        assert len(store) == 100
    assert {len(tries) for question, tries in server.seen.items() if question != 'question 60'} == {1}   # none was asked for twice


def test_a_server_that_never_makes_sense_ends_in_one_error(serve, tmp_path):
    _, url = serve(('not json',), 1.)
    with open_engine(f'openai:good@{url}', max_retries=2) as engine, Store(tmp_path/'s.sqlite') as store:
        with pytest.raises(CgdError, match='3 answers in a row'): complete(engine, ask(3), store)


def test_two_servers_share_the_work_and_one_may_go(serve, tmp_path, capsys):
    (first, here), (second, there) = serve(('slow',), 1.), serve(('slow',), 1.)
    answer = Handler.misbehave
    def then_gone(handler, fault, asked, question):
        if handler.server is second and len(second.seen) > 20:   # it hangs up on everybody from now on
            handler.close_connection = True
            return handler.connection.close()
        answer(handler, fault, asked, question)
    Handler.misbehave = then_gone
    try:
        with open_engine(f'openai:good@{here},{there}', concurrency=4, max_retries=1) as engine, Store(tmp_path/'s.sqlite') as store: came = complete(engine, ask(100), store)
    finally: Handler.misbehave = answer
    assert [c.text for c in came] == [f'answer to question {i}' for i in range(100)]
    assert 'the other servers go on' in (said := capsys.readouterr().err) and there in said
    assert len(first.seen) >= 79 and len(first.seen.keys() | second.seen.keys()) == 100


def test_a_slow_server_is_slow_and_not_gone(serve, tmp_path):
    (_, here), (_, there) = serve(('slow',), 1.), serve(('slow',), 1.)
    with open_engine(f'openai:good@{here},{there}', timeout=.05, max_retries=1) as engine, Store(tmp_path/'s.sqlite') as store:
        with pytest.raises(CgdError, match='timeout: 2 x 0.05 s without an answer'): complete(engine, ask(3), store)


def test_a_server_that_moves_is_asked_nothing_again(serve, tmp_path):
    (_, here), (second, there) = serve(), serve()
    with Store(tmp_path/'s.sqlite') as store:
        for url in (here, there):
            with open_engine(f'openai:good@{url}', served_as='good-fp8') as engine: assert len(complete(engine, ask(9), store)) == 9
    assert not second.seen


def test_no_server(tmp_path):
    with open_engine('openai:good@http://127.0.0.1:9/v1', max_retries=1) as engine, Store(tmp_path/'s.sqlite') as store:
        with pytest.raises(CgdError, match='is the server up'): complete(engine, ask(3), store)


def test_too_long_is_counted_and_surrogates_do_no_harm(serve, tmp_path):
    _, url = serve()
    with open_engine(f'openai:good@{url}') as engine, Store(tmp_path/'s.sqlite') as store:
        long, odd = complete(engine, [Request(q, [{'role': 'user', 'content': q}]) for q in ('too long', 'surrogate')], store)
    assert (long.finish_reason, long.text) == ('too_long', '') and odd.text == 'half a ? smile'


def test_not_every_400_with_the_word_context_is_a_long_prompt(serve, tmp_path):
    _, url = serve()
    with open_engine(f'openai:good@{url}') as engine, Store(tmp_path/'s.sqlite') as store:
        with pytest.raises(CgdError, match='not allowed in this context'): complete(engine, [Request('p', [{'role': 'user', 'content': 'no context'}])], store)


def test_a_client_that_cannot_be_made_is_an_error_and_no_wait(serve, tmp_path, monkeypatch):
    _, url = serve()
    monkeypatch.setenv('ALL_PROXY', 'nonsense://x')
    with open_engine(f'openai:good@{url}') as engine, Store(tmp_path/'s.sqlite') as store:
        with pytest.raises(CgdError, match='client cannot be set up'): complete(engine, ask(3), store)


def test_the_key_is_sent_and_written_nowhere(serve, tmp_path, monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-very-secret')
    server, url = serve()
    with open_engine(f'openai:good@{url}') as engine, Store(tmp_path/'s.sqlite') as store: complete(engine, ask(3), store)
    assert server.keys == {'Bearer sk-very-secret'}
    assert not [f for f in tmp_path.rglob('*') if b'sk-very-secret' in f.read_bytes()]
    with open_engine(f'openai:sk-very-secret@{url}') as engine, Store(tmp_path/'s.sqlite') as store:
        with pytest.raises(CgdError) as error: complete(engine, ask(4), store)
    assert 'sk-very-secret' not in str(error.value)
