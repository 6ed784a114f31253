"A row's fault is the row's: servers that refuse, answer in other shapes, wait, trickle or go, each a small real one on loopback"
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from test_faults import Handler, ask, serve   # noqa: F401  (a fixture)

from cgd import generate
from cgd.core import CgdError
from cgd.evaluate import EvalConfig, evaluate, summarise
from cgd.generate import Request, SampleConfig, Store, complete, open_engine, sessions
from cgd.pipeline import fitting
from cgd.rollouts import draft, draft_summary
from cgd.teacher import LMTeacher, TeacherConfig, critique, refine, teach

USAGE = dict(prompt_tokens=5, completion_tokens=2, total_tokens=7)


def good(text='4', finish='stop', usage=USAGE, model='good', **message) -> dict:
    return dict(id='x', object='chat.completion', created=0, model=model, usage=usage, choices=[dict(index=0, finish_reason=finish, message=dict(role='assistant', content=text) | message)])


def error(status, message, **more): return status, dict(error=dict(message=message, **more))


@pytest.fixture
def script(serve, monkeypatch):   # noqa: F811
    "Servers that reply by a function of the question, how often it was asked, and the request: (status, body) and perhaps headers; or one that takes the handler"
    def start(reply):
        server, url = serve()
        server.reply = reply
        return server, url
    def answer(handler, fault, asked, question):
        reply = handler.server.reply(question, len(handler.server.seen[question]), asked)
        reply(handler) if callable(reply) else handler.answer(*reply)
    monkeypatch.setattr(Handler, 'misbehave', answer)
    return start


@pytest.fixture
def quick(monkeypatch) -> list:
    "Waits are short, and noted"
    waits, sleep = [], asyncio.sleep
    async def short(seconds, *rest):
        if seconds > .05: waits.append(seconds)
        await sleep(min(seconds, .02))
    monkeypatch.setattr(generate.asyncio, 'sleep', short)
    return waits


def through(url, requests, path, **options) -> list:
    with open_engine(f'openai:good@{url}', **dict(max_retries=2) | options) as engine, Store(path) as store: return complete(engine, requests, store)


def asked(server) -> dict: return {q: len(tries) for q, tries in server.seen.items()}


def number(question) -> int: return int(question.split()[-1])


@pytest.mark.parametrize('usage, counts', [
    (None, (None, None)), ({}, (None, None)), ('many', (None, None)), (dict(prompt_tokens=0, completion_tokens=0, total_tokens=0), (None, None)),
    (dict(prompt_tokens=5), (5, None)), (dict(prompt_tokens=None, completion_tokens=2), (None, 2)), (dict(prompt_tokens=5, total_tokens=7), (5, 2)),
    (dict(completion_tokens=2, total_tokens=7), (5, 2)), (dict(input_tokens=5, output_tokens=2), (5, 2)), (dict(prompt_tokens='5', completion_tokens=2.0, prompt_tokens_details=None), (5, 2))])
def test_a_text_is_used_whatever_the_server_counts(script, tmp_path, capsys, usage, counts):
    server, url = script(lambda *_: (200, good(usage=usage)))
    for _ in range(2):
        came = through(url, ask(3), tmp_path/'s.sqlite')
        assert [(c.text, c.finish_reason, c.prompt_tokens, c.completion_tokens) for c in came] == [('4', 'stop', *counts)]*3
    assert set(asked(server).values()) == {1}
    assert ('the numbers stay unknown' in capsys.readouterr().err) == (None in counts)
    with Store(tmp_path/'s.sqlite') as store: line, = sessions(store)
    assert [line[k] for k in ('prompt_tokens', 'completion_tokens')] == [n and 3*n for n in counts]     # never 0 for what is not known


def test_usage_that_is_not_there_at_all(script, tmp_path):
    body = good()
    del body['usage']
    _, url = script(lambda *_: (200, body))
    assert [c.completion_tokens for c in through(url, ask(2), tmp_path/'s.sqlite')] == [None, None]
    problems = [dict(problem_id=f'p{i}', prompt=f'question {i}', reference='4') for i in range(3)]
    with open_engine(f'openai:good@{url}') as engine, Store(tmp_path/'s.sqlite') as store:
        assert draft_summary(draft(problems, engine, store, SampleConfig()))['mean_tokens'] is None
        assert summarise(evaluate(engine, problems, EvalConfig(), store))['mean_tokens'] is None


REFUSALS = [error(400, 'The response was filtered', code='content_filter', param='prompt'), error(400, 'odd prompt'), (413, dict(detail='prompt of 9 MB refused by rate group')),
            (422, dict(detail=[dict(loc=['body', 'messages'], msg='not a valid turn', input='x'*9000)])), (400, [dict(error=dict(message='no such luck', status='INVALID_ARGUMENT'))]),
            (400, 'not this one'), (403, dict(error=dict(message='your input was flagged', metadata=dict(reasons=['violence'])))), (451, 'unavailable for legal reasons'),
            (400, dict(object='error', message='roles must alternate', type='BadRequestError', code=400)), (403, b'<html><h1>Request blocked</h1></html>'),
            (200, good(None, 'content_filter')), (200, dict(error=dict(message='content management policy', code=400)))]


@pytest.mark.parametrize('refusal', REFUSALS, ids=lambda r: str(r[0]))
def test_a_refused_row_is_left_out_and_named_and_the_others_go_on(script, tmp_path, capsys, refusal):
    server, url = script(lambda q, n, a: refusal if number(q) == 7 else (200, good(q)))
    long = refusal[0] == 413
    for round in (1, 2):
        came = through(url, ask(20), tmp_path/'s.sqlite', concurrency=4)
        assert [c.text for c in came] == ['' if i == 7 else f'question {i}' for i in range(20)]
        assert came[7].finish_reason == ('too_long' if long else 'refused') and (long or came[7].key == '')
        said = capsys.readouterr().err
        words = {str: refusal[1], bytes: '403: Request blocked'}.get(type(refusal[1])) or 'finish_reason content_filter'*('choices' in refusal[1]) or generate._words(refusal[1])
        assert (long and round == 2) or re.search(f'p7 is left out: .*{re.escape(words)}', said) and 'x'*50 not in said
    assert asked(server) == {f'question {i}': 2 - long if i == 7 else 1 for i in range(20)}   # what was answered is not asked again
    with Store(tmp_path/'s.sqlite') as store: assert len(store) == 19 + long


LONG = [error(400, 'no', code='context_length_exceeded'), error(500, 'Context size has been exceeded.', type='server_error'), (413, 'Request Entity Too Large'),
        (422, dict(error='Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000', error_type='validation')),
        (400, [dict(error=dict(code=400, message='The input token count (9000) exceeds the maximum number of tokens allowed (8192).'))]), (400, 'prompt is too long: 9 tokens > 8 maximum'),
        (400, dict(object='error', message="The input (61709 tokens) is longer than the model's context length (40960 tokens).")),
        (200, dict(error=dict(message="This endpoint's maximum context length is 8 tokens", code=400)))]


@pytest.mark.parametrize('reply', LONG, ids=lambda r: str(r[0]))
def test_too_long_in_other_words(script, tmp_path, reply):
    server, url = script(lambda q, n, a: reply if number(q) == 1 else (200, good()))
    for _ in range(2): assert [c.finish_reason for c in through(url, ask(3), tmp_path/'s.sqlite')] == ['stop', 'too_long', 'stop']
    assert set(asked(server).values()) == {1}   # it is stored


@pytest.mark.parametrize('content, thoughts', [
    ([dict(type='text', text='so '), dict(type='text', text='4')], ''), ([dict(type='thinking', thinking='hm', signature='x'), dict(type='text', text='so 4')], 'hm'),
    ([dict(type='thinking', thinking=[dict(type='text', text='hm')]), dict(type='text', text='so 4')], 'hm'), ([dict(text='hm', thought=True), dict(text='so 4')], 'hm'),
    (['so ', '4'], ''), (dict(type='text', text='so 4'), ''), ([dict(type='redacted_thinking', data='x'), dict(type='output_text', text='so 4', annotations=[])], '')])
def test_content_in_parts(script, tmp_path, content, thoughts):
    _, url = script(lambda *_: (200, good(content)))
    for keep in (False, True):
        text = through(url, ask(1), tmp_path/'s.sqlite', keep_thoughts=keep)[0].text
        assert text == (f'<think>\n{thoughts}\n</think>\n\nso 4' if keep and thoughts else 'so 4')


@pytest.mark.parametrize('field', ['reasoning_content', 'reasoning', 'thinking'])
def test_thoughts_beside_the_content(script, tmp_path, field):
    _, url = script(lambda *_: (200, good('so 4', **{field: 'hm'})))
    assert [through(url, ask(1), tmp_path/'s.sqlite', keep_thoughts=k)[0].text for k in (False, True)] == ['so 4', '<think>\nhm\n</think>\n\nso 4']


@pytest.mark.parametrize('body', [dict(error=dict(message='Provider returned error', code=502)), dict(error='upstream broke'), dict(choices=[], error=dict(message='try later')),
                                  dict(choices=None, base_resp=dict(status_code=1002, status_msg='rate limit')), dict(object='error', message='engine is dead', code=500),
                                  good() | dict(choices=[dict(finish_reason='error', error=dict(message='cut off', code=502), message=dict(content='4 and'))]),
                                  good('4 and', 'abort')])
def test_an_error_in_the_place_of_an_answer(script, tmp_path, quick, body):
    server, url = script(lambda q, n, a: (200, body if n < 3 else good()))
    assert [c.text for c in through(url, ask(2), tmp_path/'s.sqlite')] == ['4', '4'] and set(asked(server).values()) == {3}
    server.reply = lambda *_: (200, body)
    with pytest.raises(CgdError, match='nothing was answered.*(Provider|upstream|try later|rate limit|engine is dead|cut off|abort)'): through(url, ask(2), tmp_path/'t.sqlite')


@pytest.mark.parametrize('word, reason', [*dict.fromkeys([('eos', 'stop'), ('eos_token', 'stop'), ('end_turn', 'stop'), ('stop_sequence', 'stop'), ('STOP', 'stop'), ('complete', 'stop'),
                                           ('max_tokens', 'length'), ('MAX_TOKENS', 'length'), ('model_length', 'length'), ('SAFETY', 'content_filter'), ('refusal', 'content_filter')])])
def test_ends_by_other_names(script, tmp_path, capsys, word, reason):
    _, url = script(lambda *_: (200, good(finish=word)))
    assert {c.finish_reason for c in through(url, ask(3), tmp_path/'s.sqlite')} == {reason} and not capsys.readouterr().err


@pytest.mark.parametrize('word', ['banana', 'FINISH_REASON_UNSPECIFIED', 'pending', None, ''])
def test_an_end_that_is_not_known_is_said_once(script, tmp_path, capsys, quick, word):
    server, url = script(lambda q, n, a: (200, good(finish=word, usage=(USAGE, USAGE | dict(completion_tokens=9), None)[number(q)])))
    came = through(url, [Request(f'p{i}', [dict(role='user', content=f'question {i}')], max_new_tokens=9) for i in range(3)], tmp_path/'s.sqlite')
    assert [c.finish_reason for c in came] == ['stop', 'length', 'unknown'] and {c.text for c in came} == {'4'}
    said = capsys.readouterr().err
    assert said.count(f'finish_reason {word or None!r} is no word known here; taken for `stop`') == 1


def test_an_answer_that_broke_off_is_asked_for_again(script, tmp_path, quick):
    server, url = script(lambda q, n, a: (200, good('4', None) if n == 1 and number(q) % 2 else good('whole')))
    assert {c.text for c in through(url, ask(20), tmp_path/'s.sqlite')} == {'whole'}


UNTAKEN = dict(temperature=error(400, "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.", param='temperature', code='unsupported_value'),
               top_p=error(400, '`temperature` and `top_p` cannot both be specified for this model. Please use only one.', type='invalid_request_error'),
               max_tokens=error(400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", param='max_tokens'),
               seed=(422, dict(detail=[dict(type='extra_forbidden', loc=['body', 'seed'], msg='Extra inputs are not permitted')])))


@pytest.mark.parametrize('setting', UNTAKEN)
def test_a_setting_that_a_model_does_not_take(script, tmp_path, capsys, setting):
    server, url = script(lambda q, n, a: UNTAKEN[setting] if setting in a else (200, good(json.dumps(a))))
    requests = [Request(f'p{i}', [dict(role='user', content=f'question {i}')], temperature=.5, seed=3) for i in range(30)]
    with open_engine(f'openai:good@{url}', concurrency=4) as engine, Store(tmp_path/'s.sqlite') as store:
        came = complete(engine, requests, store)
        kept = [json.loads(row[0]) for row in store._do('SELECT request FROM completions')]
    sent = [json.loads(c.text) for c in came]
    assert all(setting not in a and a['model'] == 'good' for a in sent) and {c.finish_reason for c in came} == {'stop'}
    assert sum(n - 1 for n in asked(server).values()) <= 4                         # learnt after the first ones
    said = capsys.readouterr().err
    assert said.count(setting + ' is ') == 1 and 'is left out: 4' in said or setting == 'max_tokens' and 'is sent as max_completion_tokens' in said
    if setting == 'max_tokens': assert all(a['max_completion_tokens'] == 256 for a in sent)
    else: assert all(r[setting] is None for r in kept)                             # the store says what was sent


def test_a_setting_refused_once_is_not_left_out_for_all(script, tmp_path):
    server, url = script(lambda q, n, a: UNTAKEN['temperature'] if number(q) == 9 and 'temperature' in a else (200, good(json.dumps(a))))
    sent = [json.loads(c.text) for c in through(url, ask(20), tmp_path/'s.sqlite', concurrency=1)]
    assert [i for i, a in enumerate(sent) if 'temperature' not in a] == [9]


def test_settings_left_out_from_the_start_are_part_of_the_name(script, tmp_path):
    server, url = script(lambda q, n, a: (200, good(json.dumps(a))))
    text = through(url, ask(1), tmp_path/'s.sqlite', omit=['temperature', 'top_p'])[0].text
    assert not {'temperature', 'top_p'} & json.loads(text).keys()
    assert through(url, ask(1), tmp_path/'s.sqlite')[0].text != text and asked(server) == {'question 0': 2}
    with pytest.raises(CgdError, match='omit'): open_engine(f'openai:good@{url}', omit=['heat'])


def test_a_cap_that_is_too_high_is_no_setting_to_leave_out(script, tmp_path):
    _, url = script(lambda *_: error(400, "max_tokens is too large: 256. This model supports at most 128 completion tokens", param='max_tokens'))
    with pytest.raises(CgdError, match='nothing was answered: 400: max_tokens is too large'): through(url, ask(3), tmp_path/'s.sqlite')


def test_a_stop_string_that_the_server_leaves_in_is_cut(script, tmp_path):
    _, url = script(lambda *_: (200, good('4 END and 5', 'eos_token')))
    request = Request('p', [dict(role='user', content='q 1')], stop=('END',))
    assert through(url, [request], tmp_path/'s.sqlite')[0].text == '4 '


def test_patience_of_more_than_two_minutes_is_had_and_said(script, tmp_path, capsys, quick):
    server, url = script(lambda q, n, a: (429, dict(error=dict(message='slow down')), [('Retry-After', '300')]) if n == 1 else (200, good()))
    assert len(through(url, ask(5), tmp_path/'s.sqlite')) == 5 and quick.count(300) == 5
    assert capsys.readouterr().err.count('asks to wait 300 s: 429: slow down') == 1


@pytest.mark.parametrize('headers, message, wait', [
    ([('Retry-After', '0.7')], '', .7), ([('retry-after-ms', '700')], '', .7), ([('Retry-After', 'Wed, 01 Jan 2250 00:00:00 GMT')], '', None), ([], 'Please try again in 2m1.5s.', 121.5),
    ([], 'Please retry after 23 seconds.', 23), ([], 'Please retry in 37.2s.', 37.2), ([('Retry-After', 'soon')], 'again', 0), ([('Retry-After', '-1')], '', 0)])
def test_how_long_to_wait(script, tmp_path, quick, headers, message, wait):
    server, url = script(lambda q, n, a: (429, dict(error=dict(message=message)), headers) if n == 1 else (200, good()))
    if wait is None:
        with pytest.raises(CgdError, match=r'asks to wait \d+ s, and max_wait is 3600.*are kept'): through(url, ask(1), tmp_path/'s.sqlite')
    else:
        through(url, ask(1), tmp_path/'s.sqlite')
        assert quick == [pytest.approx(wait)] if wait else len(quick) == 1 and quick[0] < 1


def trickle(handler):
    handler.send_response(200); handler.send_header('Content-Type', 'application/json'); handler.send_header('Content-Length', '9999'); handler.end_headers()
    handler.close_connection = True
    try:
        for _ in range(100): handler.wfile.write(b' '); handler.wfile.flush(); time.sleep(.05)
    except OSError: pass   # hung up on


def test_an_answer_that_trickles_in_is_bounded(script, tmp_path, capsys):
    _, url = script(lambda q, n, a: trickle if number(q) == 3 else (200, good()))
    start = time.monotonic()
    came = through(url, ask(10), tmp_path/'s.sqlite', timeout=.4, max_retries=1)
    assert time.monotonic() - start < 4 and [i for i, c in enumerate(came) if c.finish_reason == 'refused'] == [3]
    assert 'p3 is left out: timeout: 2 x 0.4 s without an answer' in capsys.readouterr().err


def test_what_is_no_text_is_said(script, tmp_path, capsys):
    call = dict(id='1', type='function', function=dict(name='add', arguments='{}'))
    replies = [good(None, 'tool_calls', tool_calls=[call]), good(None), good(None, reasoning_content='hm'), good('4', model='another-2026-11-01'), good(None, refusal='I will not.')]
    _, url = script(lambda q, n, a: (200, replies[number(q)]))
    came = through(url, ask(5), tmp_path/'s.sqlite')
    assert [(c.text, c.finish_reason) for c in came] == [('', 'tool_calls'), ('', 'stop'), ('', 'stop'), ('4', 'stop'), ('I will not.', 'stop')]
    said = capsys.readouterr().err
    for words in ('p0: a call of a tool', 'p1: an answer without text\n', 'p2: an answer without text, only thoughts', "answers come from 'another-2026-11-01'"): assert said.count(words) == 1


@pytest.mark.parametrize('reply, words', [
    (error(401, 'wrong key'), 'wrong key'), (error(402, 'Insufficient Balance'), 'Insufficient Balance'), (error(429, 'You exceeded your current quota', code='insufficient_quota'), 'current quota'),
    (error(400, 'Your credit balance is too low to access the API'), 'credit balance'), (error(400, 'API key not valid. Please pass a valid API key.'), 'API key not valid'),
    (error(404, 'The model `good` does not exist'), 'does not exist'), (error(400, 'good is not a valid model ID'), 'not a valid model'), (error(403, 'Forbidden'), 'Forbidden'),
    ((404, 'page not found'), 'page not found'), ((200, dict(error=dict(message='insufficient balance', code='1008'))), 'insufficient balance')])
def test_a_fault_of_all_ends_the_run_at_once(script, tmp_path, reply, words):
    server, url = script(lambda *_: reply)
    with pytest.raises(CgdError, match=f'{words}.*answers up to here are kept'): through(url, ask(200), tmp_path/'s.sqlite', concurrency=4)
    assert len(server.seen) <= 8


def test_a_setting_of_all_ends_the_run_after_some(script, tmp_path):
    server, url = script(lambda *_: error(400, 'response_format is wanted'))
    with pytest.raises(CgdError, match='response_format is wanted; answers up to here are kept'): through(url, ask(200), tmp_path/'s.sqlite', concurrency=4)
    assert len(server.seen) <= 16
    with pytest.raises(CgdError, match='nothing was answered: 400: response_format is wanted'): through(url, ask(3), tmp_path/'s.sqlite')


def test_filtered_rows_alone_end_nothing(script, tmp_path):
    _, url = script(lambda q, n, a: REFUSALS[0] if number(q) < 60 else (200, good()))
    assert [c.finish_reason for c in through(url, ask(70), tmp_path/'s.sqlite', concurrency=4)] == ['refused']*60 + ['stop']*10
    assert {c.finish_reason for c in through(url, ask(60), tmp_path/'t.sqlite')} == {'refused'}


def test_many_alike_are_said_compactly(script, tmp_path, capsys):
    _, url = script(lambda q, n, a: error(400, f'bad row of {number(q)} words') if number(q) % 2 else (200, good()))
    through(url, ask(300), tmp_path/'s.sqlite')
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11 and '140 more are left out (400: bad row of' in lines[-1] and lines[-1].count('p') >= 100 and lines[-1].endswith(', ...')


def test_a_row_that_fails_every_time_is_left_out(script, tmp_path, capsys, quick):
    def hang_up(handler): handler.close_connection = True; handler.connection.close()
    server, url = script(lambda q, n, a: {3: error(500, 'boom'), 5: hang_up, 7: (200, b'{"id": ')}.get(number(q)) or (200, good()))
    came = through(url, ask(40), tmp_path/'s.sqlite', concurrency=4)
    assert [i for i, c in enumerate(came) if c.finish_reason == 'refused'] == [3, 5, 7]
    said = capsys.readouterr().err
    assert 'p3 is left out: 500: boom' in said and 'p5 is left out: no answer from' in said and 'p7 is left out: 3 answers in a row that are not completions' in said
    with pytest.raises(CgdError, match='nothing was answered'): through(url, [ask(4)[3]], tmp_path/'t.sqlite')   # nothing shows that it is the row
    assert through(url, ask(40), tmp_path/'s.sqlite')[3].finish_reason == 'refused'                              # the store does


def test_a_server_that_breaks_down_ends_the_run(script, tmp_path, quick):
    server, url = script(lambda q, n, a: (200, good()) if len(server.seen) < 50 else error(500, 'out of memory'))
    with pytest.raises(CgdError, match='out of memory; answers up to here are kept'): through(url, ask(300), tmp_path/'s.sqlite', concurrency=4)
    assert len(server.seen) < 80
    with Store(tmp_path/'s.sqlite') as store: assert 45 <= len(store) <= 50


@pytest.mark.parametrize('fault', [error(401, 'wrong key'), error(404, 'no such model'), error(500, 'boom'), error(400, 'odd'), error(400, 'context size of 8 exceeded'), (200, 'soup'),
                                   (429, dict(error=dict(message='come tomorrow')), [('Retry-After', '86400')])], ids=lambda f: str(f[1])[:40])
def test_a_fault_of_one_server_is_not_the_rows(script, tmp_path, quick, fault):
    (sick, here), (well, there) = script(lambda *_: fault), script(lambda q, n, a: (200, good(q)))
    for _ in range(2): came = through(f'{here},{there}', ask(60), tmp_path/'s.sqlite', concurrency=4, max_retries=1)
    assert [(c.text, c.finish_reason) for c in came] == [(f'question {i}', 'stop') for i in range(60)] and asked(well) == {f'question {i}': 1 for i in range(60)}


def test_a_row_that_all_servers_refuse(script, tmp_path, capsys):
    (one, here), (two, there) = (script(lambda q, n, a: REFUSALS[0] if number(q) == 7 else (200, good(q))) for _ in range(2))
    came = through(f'{here},{there}', ask(20), tmp_path/'s.sqlite')
    assert [i for i, c in enumerate(came) if c.finish_reason == 'refused'] == [7] and (asked(one)['question 7'], asked(two)['question 7']) == (1, 1)
    assert capsys.readouterr().err.count('p7 is left out') == 1


def test_stages_leave_refused_rows_out(script, tmp_path, capsys):
    "A refused draft is not put to the teacher; a draft without a critique is not refined; a refused answer is not right"
    def reply(question, n, asked):
        at = asked['messages'][-1]['content']
        if 'question 1' in at and len(at) < 30: return REFUSALS[0]
        return 200, good('  \n' if 'question 2' in at and stage[0] == 'critique' else '4')
    stage = ['draft']
    server, url = script(reply)
    problems = [dict(problem_id=f'p{i}', prompt=f'question {i}', reference='4') for i in range(4)]
    with open_engine(f'openai:good@{url}') as engine, Store(tmp_path/'s.sqlite') as store:
        drafts, teacher = draft(problems, engine, store, SampleConfig()), LMTeacher(engine, TeacherConfig())
        assert [d['draft_finish'] for d in drafts] == ['stop', 'refused', 'stop', 'stop']
        assert [d['problem_id'] for d in fitting(drafts)] == ['p0', 'p2', 'p3']
        stage[0], before = 'critique', len(server.seen)
        critiques = critique(drafts, teacher, store)
        assert [c['critique_finish'] for c in critiques] == ['stop', 'no draft', 'stop', 'stop'] and len(server.seen) == before + 3
        stage[0] = 'refine'
        refined = refine(critiques, teacher, store)
        assert [(r['refinement'], r['refinement_finish']) for r in refined] == [('4', 'stop'), ('', 'no critique'), ('', 'no critique'), ('4', 'stop')] and len(server.seen) == before + 5
        assert 'refine: left out 2 of 4 rows without a critique' in capsys.readouterr().err
        records = evaluate(engine, problems, EvalConfig(template='{prompt}'), store)
    assert [r['finish_reason'] for r in records] == ['stop', 'refused', 'stop', 'stop'] and records[1]['strict'] != 'right' and summarise(records)['flexible'] == .75
    assert '1 of 4 answers were refused and are not right' in capsys.readouterr().err
    with pytest.raises(CgdError, match='refused every prompt'): fitting(drafts[1:2])


def test_refused_teaching_is_dropped_by_every_view(script, tmp_path):
    from cgd.views import build
    _, url = script(lambda q, n, a: REFUSALS[0] if 'question 1' in q else (200, good('4')))
    rows = [dict(problem_id=f'p{i}', sample=0, student='s', prompt=f'question {i}', reference='4', solution='4', draft='5', draft_grade='wrong', draft_finish='stop') for i in range(3)]
    with open_engine(f'openai:good@{url}') as engine, Store(tmp_path/'s.sqlite') as store: traces = teach(rows, LMTeacher(engine, TeacherConfig()), store)
    assert [t['critique_finish'] for t in traces] == ['stop', 'refused', 'stop']
    for view in ('cgd', 'cft', 'dsft_refined'): assert len(build(traces, view)) == 2


BAD = {3: REFUSALS[0], 13: LONG[1], 23: (400, 'not this one'), 33: (422, dict(detail='odd')), 43: error(500, 'always'), 53: trickle, 63: (400, [dict(error=dict(message='no'))])}


def misbehave(draw):
    "A reply to each question; of every ten rows one in each of these ways, and of each hundred some that are refused"
    def reply(question, n, asked):
        i, kind = number(question) % 100, number(question) % 10
        if i in BAD: return BAD[i]
        if 'temperature' in asked and i == 88: return UNTAKEN['temperature']
        if n == 1 and kind == 0: return draw.choice([error(500, 'oh no'), (200, b'{"id"'), (200, dict(error=dict(message='busy', code=503))), (502, b'<html>bad gateway</html>')])
        if n == 1 and kind == 1: return (429, dict(error=dict(message='slow down')), [('Retry-After', '0.2')])
        text = f'answer to {question}'
        return 200, {2: good(text, usage=None), 4: good([dict(type='thinking', thinking='hm'), dict(type='text', text=text)]), 5: good(text, 'end_turn'), 6: good(text, 'banana'),
                     7: good(text, usage=dict(total_tokens=7)), 8: good(text, model='another')}.get(kind) or good(text)
    return reply


def test_three_hundred_requests_through_all_of_it(script, tmp_path, capsys):
    server, url = script(misbehave(random.Random(0)))
    start = time.monotonic()
    came = through(url, ask(300), tmp_path/'s.sqlite', timeout=1., max_retries=3)
    assert time.monotonic() - start < 30
    said = capsys.readouterr().err
    for i, c in enumerate(came):
        if i % 100 not in BAD: assert (c.text, c.finish_reason) == (f'answer to question {i}', 'stop')
        else: assert (c.text, c.finish_reason) == ('', 'too_long' if i % 100 == 13 else 'refused') and f'p{i} is left out: ' in said
    for words in ('400: The response was filtered', '500: Context size has been exceeded', '400: not this one', '422: odd', '500: always', 'timeout: 4 x 1 s', '400: no\n'): assert said.count(words) == 3
    for once in ("finish_reason 'banana'", 'the numbers stay unknown', "answers come from 'another'", 'temperature is left out'): assert said.count(once) == 1
    before = asked(server)
    assert all(n == 1 for q, n in before.items() if number(q) % 10 not in (0, 1, 3, 8))
    through(url, ask(300), tmp_path/'s.sqlite', timeout=1., max_retries=3)
    again = {number(q) for q, n in asked(server).items() if n > before[q]}
    assert again == {i for i in range(300) if i % 100 in BAD and i % 100 != 13}              # the refused ones, and nothing that was answered


def test_killed_half_way_it_goes_on(script, tmp_path):
    server, url = script(misbehave(random.Random(1)))
    code = 'import sys; from test_endpoints import ask, through; through(sys.argv[1], ask(300), sys.argv[2], timeout=1., max_retries=3, concurrency=4)'
    work = subprocess.Popen([sys.executable, '-c', code, url, str(tmp_path/'s.sqlite')], cwd=os.path.dirname(__file__), stderr=subprocess.DEVNULL)
    while len(server.seen) < 150: assert work.poll() is None; time.sleep(.02)
    work.send_signal(signal.SIGKILL); work.wait()
    with Store(tmp_path/'s.sqlite') as store: kept = {json.loads(r)['messages'][-1]['content'] for r, in store._do('SELECT request FROM completions')}
    before = asked(server)
    came = through(url, ask(300), tmp_path/'s.sqlite', timeout=1., max_retries=3)
    assert len(kept) > 100 and all(asked(server)[q] == before[q] for q in kept)              # nothing that was answered
    assert [i for i, c in enumerate(came) if c.finish_reason == 'refused'] == [i for i in range(300) if i % 100 in BAD and i % 100 != 13]
