"A row's fault is the row's: servers that refuse, answer in other shapes, wait, trickle or go; real ones on loopback"
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

from cgd import endpoint
from cgd.costs import ledger
from cgd.core import CgdError
from cgd.evaluate import EvalConfig, evaluate, summarise
from cgd.stats import within_budget
from cgd.store import Request, SampleConfig, Store, contents, sessions
from cgd.generate import complete
from cgd.engines import open_engine
from cgd.pipeline import drop_unreadable
from cgd.rollouts import draft, draft_summary
from cgd.teacher import LMTeacher, TeacherConfig, critique, refine, teach
from cgd.models import Shape
from cgd.views import build

USAGE = dict(prompt_tokens=5, completion_tokens=2, total_tokens=7)


def good(text='4', finish='stop', usage=USAGE, model='good', **message) -> dict:
    choice = dict(index=0, finish_reason=finish, message=dict(role='assistant', content=text) | message)
    return dict(id='x', object='chat.completion', created=0, model=model, usage=usage, choices=[choice])


def error(status, message, **more): return status, dict(error=dict(message=message, **more))


@pytest.fixture
def script(serve, monkeypatch):   # noqa: F811
    "Servers whose replies (status, body, perhaps headers) are made of a question, how often it came and what was sent"
    def start(reply):
        server, url = serve()
        server.reply = reply
        return server, url
    def answer(handler, fault, sent, question):
        reply = handler.server.reply(question, len(handler.server.seen[question]), sent)
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
    monkeypatch.setattr(endpoint.asyncio, 'sleep', short)
    return waits


def through(url, requests, path, **options) -> list:
    "Completions of a server; what is asked fills a store"
    with open_engine(f'openai:good@{url}', **dict(max_retries=2) | options) as engine, Store(path) as store:
        return complete(engine, requests, store)


def asked(server) -> dict: return {question: len(tries) for question, tries in server.seen.items()}


def number(question) -> int: return int(question.split()[-1])


def refused(came) -> list: return [i for i, c in enumerate(came) if c.finish_reason == 'refused']


COUNTS = [(None, (None, None)), ({}, (None, None)), ('many', (None, None)),
          (dict(prompt_tokens=0, completion_tokens=0, total_tokens=0), (None, None)),
          (dict(prompt_tokens=5), (5, None)), (dict(prompt_tokens=None, completion_tokens=2), (None, 2)),
          (dict(prompt_tokens=5, total_tokens=7), (5, 2)), (dict(completion_tokens=2, total_tokens=7), (5, 2)),
          (dict(input_tokens=5, output_tokens=2), (5, 2)),
          (dict(prompt_tokens=10**400, completion_tokens=2**64), (None, None)),
          (dict(prompt_tokens='5', completion_tokens=2.0, prompt_tokens_details=None), (5, 2))]


@pytest.mark.parametrize('usage, counts', COUNTS)
def test_a_text_is_used_whatever_the_server_counts(script, tmp_path, capsys, usage, counts):
    server, url = script(lambda *_: (200, good(usage=usage)))
    for _ in range(2):
        came = through(url, ask(3), tmp_path/'s.sqlite')
        assert {(c.text, c.finish_reason) for c in came} == {('4', 'stop')}
        assert {(c.prompt_tokens, c.completion_tokens) for c in came} == {counts}
    assert set(asked(server).values()) == {1}
    assert ('the numbers stay unknown' in capsys.readouterr().err) == (None in counts)
    with Store(tmp_path/'s.sqlite') as store: line, = sessions(store)
    assert (line['prompt_tokens'], line['completion_tokens']) == tuple(n and 3*n for n in counts)   # 0 would be a lie


def test_tables_say_what_is_not_known(script, tmp_path):
    body = good()
    del body['usage']
    _, url = script(lambda *_: (200, body))
    problems = [dict(problem_id=f'p{i}', prompt=f'question {i}', reference='4') for i in range(3)]
    with open_engine(f'openai:good@{url}') as engine, Store(tmp_path/'s.sqlite') as store:
        assert draft_summary(draft(problems, engine, store, SampleConfig()))['mean_tokens'] is None
        records = evaluate(engine, problems, EvalConfig(), store)
        assert summarise(records)['mean_tokens'] is None and contents(store)[0]['completion_tokens'] is None
        costs = ledger(sessions(store), {}, Shape(8, 1, 8, 1, 1, 8, 9, True))
    unknown = 'prompt_tokens', 'completion_tokens', 'flops'
    assert all(c['requests'] == 3 and {c[k] for k in unknown} == {None} for c in costs)
    with pytest.raises(CgdError, match='does not count tokens'): within_budget(records, 9)


REFUSALS = {
    'filter': error(400, 'The response was filtered', code='content_filter', param='prompt'),
    '400': error(400, 'odd prompt'),
    '413': (413, dict(detail='Request Entity Too Large')),
    '422': (422, dict(detail=[dict(loc=['body', 'messages'], msg='not a valid turn', input='x'*9000)])),
    'list': (400, [dict(error=dict(message='no such luck', status='INVALID_ARGUMENT'))]),
    'string': (400, 'not this one'),
    'flagged': (403, dict(error=dict(message='your input was flagged', metadata=dict(reasons=['violence'])))),
    '451': (451, 'unavailable for legal reasons'),
    'flat': (400, dict(object='error', message='roles must alternate', type='BadRequestError', code=400)),
    'page': (403, b'<html><h1>Request blocked</h1></html>'),
    'long page': (400, b'<!DOCTYPE html>\n<style>p {top: 0}</style>\n<h1>Bad&nbsp;Request</h1>\n<script>1</script>'),
    'xml': (403, b'<?xml version="1.0"?>\n<Error><Code>Denied</Code></Error>'),
    'colours': (400, 'in \x1b[31mred\x1b[0m\nand two lines'),
    'nothing': (200, good(None, 'content_filter')),
    'in 200': (200, dict(error=dict(message='content management policy', code=400)))}
SAID = dict(zip(REFUSALS, ['400: The response was filtered', '400: odd prompt', '413: Request Entity Too Large',
                           '422: not a valid turn, body, messages', '400: no such luck', '400: not this one',
                           '403: your input was flagged, violence', '451: unavailable for legal reasons',
                           '400: roles must alternate', '403: Request blocked', '400: Bad Request', '403: Denied',
                           '400: in [31mred [0m and two lines', 'finish_reason content_filter',
                           '400: content management policy']))


@pytest.mark.parametrize('kind', REFUSALS)
def test_a_refused_row_is_left_out_and_named_and_the_others_go_on(script, tmp_path, capsys, kind):
    server, url = script(lambda q, n, sent: REFUSALS[kind] if number(q) == 7 else (200, good(q)))
    long = kind == '413'
    for start in (1, 2):
        came = through(url, ask(20), tmp_path/'s.sqlite', concurrency=4)
        assert [c.text for c in came] == ['' if i == 7 else f'question {i}' for i in range(20)]
        assert came[7].finish_reason == ('too_long' if long else 'refused') and (long or came[7].key == '')
        said = capsys.readouterr().err
        assert (f'p7 is left out: {SAID[kind]}' in said) == (start == 1 or not long) and 'xxx' not in said
    assert asked(server) == {f'question {i}': 2 if i == 7 and not long else 1 for i in range(20)}
    with Store(tmp_path/'s.sqlite') as store: assert len(store) == 19 + long


LONG = [error(400, 'no', code='context_length_exceeded'),
        error(500, 'Context size has been exceeded.', type='server_error'),
        (413, ''), (422, dict(error='Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096.')),
        (400, [dict(error=dict(message='The input token count (9000) exceeds the maximum number of tokens allowed'))]),
        (200, dict(error=dict(message='maximum context length is 8', code=400))), (400, 'prompt is too long: 9 > 8'),
        (400, dict(object='error', message="The input (61709 tokens) is longer than the model's context length."))]


@pytest.mark.parametrize('reply', LONG, ids=lambda r: str(r[0]))
def test_too_long_in_other_words(script, tmp_path, reply):
    server, url = script(lambda q, n, sent: reply if number(q) == 1 else (200, good()))
    for _ in range(2):
        assert [c.finish_reason for c in through(url, ask(3), tmp_path/'s.sqlite')] == ['stop', 'too_long', 'stop']
    assert set(asked(server).values()) == {1}   # it is stored


SO_4 = dict(type='text', text='so 4')
CONTENTS = [([dict(type='text', text='so '), dict(type='text', text='4')], ''), (['so ', '4'], ''), (SO_4, ''),
            ([dict(type='thinking', thinking='hm', signature='x'), SO_4], 'hm'),
            ([dict(type='thinking', thinking=[dict(type='text', text='hm')]), SO_4], 'hm'),
            ([dict(text='hm', thought=True), dict(text='so 4')], 'hm'),
            ([dict(type='redacted_thinking', data='x'), dict(type='output_text', text='so 4', annotations=[])], '')]


@pytest.mark.parametrize('content, thoughts', CONTENTS)
def test_content_in_parts(script, tmp_path, content, thoughts):
    _, url = script(lambda *_: (200, good(content)))
    for keep in (False, True):
        text = through(url, ask(1), tmp_path/'s.sqlite', keep_thoughts=keep)[0].text
        assert text == (f'<think>\n{thoughts}\n</think>\n\nso 4' if keep and thoughts else 'so 4')


@pytest.mark.parametrize('field', ['reasoning_content', 'reasoning', 'thinking'])
def test_thoughts_beside_the_content(script, tmp_path, field):
    _, url = script(lambda *_: (200, good('so 4', **{field: 'hm'})))
    came = [through(url, ask(1), tmp_path/'s.sqlite', keep_thoughts=keep)[0].text for keep in (False, True)]
    assert came == ['so 4', '<think>\nhm\n</think>\n\nso 4']


BROKE = [dict(finish_reason='error', error=dict(message='cut off', code=502), message=dict(content='4 and'))]
INSTEAD = {'Provider': dict(error=dict(message='Provider returned error', code=502)),
           'upstream': dict(error='upstream broke'),
           'try later': dict(choices=[], error=dict(message='try later')),
           'rate limit': dict(choices=None, base_resp=dict(status_code=1002, status_msg='rate limit')),
           'is dead': dict(object='error', message='engine is dead', code=500), 'cut off': good() | dict(choices=BROKE),
           'abort': good('4 and', 'abort')}


@pytest.mark.parametrize('words', INSTEAD)
def test_an_error_in_the_place_of_an_answer(script, tmp_path, quick, words):
    server, url = script(lambda q, n, sent: (200, INSTEAD[words] if n < 3 else good()))
    assert {c.text for c in through(url, ask(2), tmp_path/'s.sqlite')} == {'4'} and set(asked(server).values()) == {3}
    server.reply = lambda *_: (200, INSTEAD[words])
    with pytest.raises(CgdError, match=f'nothing was answered.*{words}'): through(url, ask(2), tmp_path/'t.sqlite')


ENDS = dict(eos='stop', eos_token='stop', end_turn='stop', stop_sequence='stop', STOP='stop', complete='stop',
            max_tokens='length', MAX_TOKENS='length', model_length='length',
            SAFETY='content_filter', refusal='content_filter')


@pytest.mark.parametrize('word', ENDS)
def test_ends_by_other_names(script, tmp_path, capsys, word):
    _, url = script(lambda *_: (200, good(finish=word)))
    assert {c.finish_reason for c in through(url, ask(3), tmp_path/'s.sqlite')} == {ENDS[word]}
    assert not capsys.readouterr().err


@pytest.mark.parametrize('word', ['banana', 'FINISH_REASON_UNSPECIFIED', 'pending', None, ''])
def test_an_end_that_is_not_known_is_said_once(script, tmp_path, capsys, quick, word):
    usages = USAGE, USAGE | dict(completion_tokens=9), None
    server, url = script(lambda q, n, sent: (200, good(finish=word, usage=usages[number(q) % 3])))
    requests = [Request(r.id, r.messages, max_new_tokens=9) for r in ask(6)]
    came = through(url, requests, tmp_path/'s.sqlite')
    assert [c.finish_reason for c in came] == ['stop', 'length', 'unknown']*2 and {c.text for c in came} == {'4'}
    assert capsys.readouterr().err.count(f'finish_reason {word or None!r} is no word known here; taken for `stop`') == 1


BOTH = [dict(index=1, finish_reason='stop', message=dict(content='not this')), good('this')['choices'][0]]
WHOLE = {'mark': b'\xef\xbb\xbf' + json.dumps(good('this')).encode(), 'two': good() | dict(choices=BOTH),
         'none and one': good() | dict(choices=[None, BOTH[1]])}


@pytest.mark.parametrize('body', WHOLE)
def test_answers_in_odd_wrapping(script, tmp_path, capsys, body):
    _, url = script(lambda *_: (200, WHOLE[body]))
    assert {c.text for c in through(url, ask(3), tmp_path/'s.sqlite')} == {'this'}
    assert capsys.readouterr().err.count('2 answers came to one question; the first is used') == (body != 'mark')


@pytest.mark.parametrize('body', [b'[' * 10**5, b'data: {"id"\n\ndata: [DONE]\n\n', b'<html>\n<h1>Log in</h1>\n'])
@pytest.mark.parametrize('status', [200, 400])
def test_what_is_no_answer_is_one_line(script, tmp_path, capsys, quick, status, body):
    _, url = script(lambda q, n, sent: (status, body) if number(q) == 1 else (200, good()))
    assert refused(through(url, ask(4), tmp_path/'s.sqlite')) == [1]
    line, = capsys.readouterr().err.splitlines()
    assert 'p1 is left out: ' in line


def test_a_server_that_has_moved_says_where(script, tmp_path, monkeypatch):
    "A client follows 302 without the question"
    monkeypatch.setattr(Handler, 'do_GET', lambda handler: handler.answer(200, good('of a page')), raising=False)
    _, url = script(lambda *_: (302, b'', [('Location', '/v2/chat/completions')]))
    with pytest.raises(CgdError, match='302: it sends us on to http://.*/v2/chat/completions; write that address'):
        through(url, ask(3), tmp_path/'s.sqlite')


def test_an_answer_that_broke_off_is_asked_for_again(script, tmp_path, quick):
    server, url = script(lambda q, n, sent: (200, good('4', None) if n == 1 and number(q) % 2 else good('whole')))
    assert {c.text for c in through(url, ask(20), tmp_path/'s.sqlite')} == {'whole'}


UNTAKEN = dict(
    temperature=error(400, "Unsupported value: 'temperature' does not support 0 with this model.", code='x'),
    top_p=error(400, '`temperature` and `top_p` cannot both be specified for this model.'),
    max_tokens=error(400, "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
    seed=(422, dict(detail=[dict(type='extra_forbidden', loc=['body', 'seed'], msg='Extra inputs are not permitted')])))


@pytest.mark.parametrize('setting', UNTAKEN)
def test_a_setting_that_a_model_does_not_take(script, tmp_path, capsys, setting):
    server, url = script(lambda q, n, sent: UNTAKEN[setting] if setting in sent else (200, good(json.dumps(sent))))
    requests = [Request(r.id, r.messages, temperature=.5, seed=3) for r in ask(30)]
    with open_engine(f'openai:good@{url}', concurrency=4) as engine, Store(tmp_path/'s.sqlite') as store:
        sent = [json.loads(c.text) for c in complete(engine, requests, store)]
        kept = [json.loads(row[0]) for row in store._do('SELECT request FROM completions')]
    assert not any(setting in s for s in sent)
    assert sum(n - 1 for n in asked(server).values()) <= 4   # learnt from the first
    said = capsys.readouterr().err
    if setting == 'max_tokens':
        assert {s['max_completion_tokens'] for s in sent} == {256} and 'is sent as max_completion_tokens' in said
    else: assert {r[setting] for r in kept} == {None} and said.count(f'{setting} is left out: 4') == 1


def test_a_refusal_that_names_a_setting_changes_nothing_for_the_others(script, tmp_path, capsys):
    odd = error(400, 'not allowed: what is the temperature in hell?')
    _, url = script(lambda q, n, sent: odd if number(q) == 0 else (200, good(json.dumps(sent))))
    came = through(url, ask(20), tmp_path/'s.sqlite', concurrency=1)
    assert refused(came) == [0] and all('temperature' in json.loads(c.text) for c in came[1:])
    assert 'is left out' in (said := capsys.readouterr().err) and 'temperature is left out' not in said


@pytest.mark.parametrize('words', ['Unrecognized request argument supplied: {}', 'Extra inputs are not permitted, {}',
                                   'chat_template is not supported for Mistral tokenizers.'])
@pytest.mark.parametrize('thinking', ['on', 'off'])
def test_a_server_that_knows_no_switch_for_thoughts(script, tmp_path, capsys, thinking, words):
    def reply(q, n, sent):
        unknown = next((name for name in ('chat_template_kwargs', 'skip_special_tokens') if name in sent), None)
        return error(400, words.format(unknown)) if unknown else (200, good(q, reasoning_content='hm'))
    if 'Mistral' in words and thinking == 'on': reply = lambda q, n, sent: (   # noqa: E731
        error(400, words) if 'chat_template_kwargs' in sent else (200, good(q, reasoning_content='hm')))
    server, url = script(reply)
    for _ in range(2):
        came = through(url, ask(9), tmp_path/'s.sqlite', concurrency=1, thinking=thinking)
        thoughts = '<think>\nhm\n</think>\n\n' if thinking == 'on' else ''
        assert [c.text for c in came] == [f'{thoughts}question {i}' for i in range(9)]
    assert capsys.readouterr().err.count('chat_template_kwargs is left out: 400: ') == 1
    assert {n for q, n in asked(server).items() if number(q)} == {1}   # learnt from the first, and nothing twice


def test_a_setting_refused_once_is_not_left_out_for_all(script, tmp_path):
    def reply(q, n, sent):
        if number(q) == 9 and 'temperature' in sent: return UNTAKEN['temperature']
        return 200, good(json.dumps(sent))
    _, url = script(reply)
    sent = [json.loads(c.text) for c in through(url, ask(20), tmp_path/'s.sqlite', concurrency=1)]
    assert [i for i, s in enumerate(sent) if 'temperature' not in s] == [9]


NO_SYSTEM = ['System role not supported', 'Conversation roles must alternate user/assistant/user/assistant/...',
             'Invalid role: system is not allowed', 'Only user and assistant roles are supported!']


@pytest.mark.parametrize('words', NO_SYSTEM)
def test_a_server_whose_template_takes_no_system_turn(script, tmp_path, capsys, words):
    "Folded into the user turn and said once; a refusal that speaks of the operating system is none of this"
    def reply(q, n, sent):
        if sent['messages'][0]['role'] == 'system': return error(400, words)
        return 200, good(json.dumps(sent['messages']))
    _, url = script(reply)
    asked_so = [Request(r.id, [dict(role='system', content='Be brief.'), *r.messages]) for r in ask(6)]
    done = through(url, asked_so, tmp_path/'s.sqlite', concurrency=2)
    assert all([t['role'] for t in json.loads(c.text)] == ['user'] and 'Be brief.' in c.text for c in done)
    assert capsys.readouterr().err.count('system turns are folded') == 1


def test_a_row_refused_for_other_reasons_keeps_its_system_turn(script, tmp_path):
    def reply(q, n, sent): return REFUSALS['filter'] if number(q) == 2 else (200, good(json.dumps(sent['messages'])))
    _, url = script(reply)
    rows = [Request(r.id, [dict(role='system', content='Be brief.'), *r.messages]) for r in ask(4)]
    done = through(url, rows, tmp_path/'s.sqlite')
    assert refused(done) == [2] and json.loads(done[3].text)[0]['role'] == 'system'


def test_settings_left_out_from_the_start_are_part_of_the_name(script, tmp_path):
    server, url = script(lambda q, n, sent: (200, good(json.dumps(sent))))
    text = through(url, ask(1), tmp_path/'s.sqlite', omit=['temperature', 'top_p'])[0].text
    assert not {'temperature', 'top_p'} & json.loads(text).keys()
    assert through(url, ask(1), tmp_path/'s.sqlite')[0].text != text and asked(server) == {'question 0': 2}
    with pytest.raises(CgdError, match='omit'): open_engine(f'openai:good@{url}', omit=['heat'])


def test_a_cap_that_is_too_high_is_no_setting_to_leave_out(script, tmp_path):
    _, url = script(lambda *_: error(400, 'max_tokens is too large: 256. At most 128 are supported'))
    with pytest.raises(CgdError, match='nothing was answered: 400: max_tokens is too large'):
        through(url, ask(3), tmp_path/'s.sqlite')
    _, url = script(lambda *_: error(400, 'Invalid request: max_tokens is too large'))   # and no long prompt
    with pytest.raises(CgdError, match='nothing was answered: 400: Invalid'): through(url, ask(3), tmp_path/'s.sqlite')


def test_a_stop_string_that_the_server_leaves_in_is_cut(script, tmp_path):
    _, url = script(lambda *_: (200, good('4 END and 5', 'eos_token')))
    request = Request('p', [dict(role='user', content='q 1')], stop=('END',))
    assert through(url, [request], tmp_path/'s.sqlite')[0].text == '4 '


def slow_down(headers=(), message='slow down'): return 429, dict(error=dict(message=message)), headers


def test_patience_of_more_than_two_minutes_is_had_and_said(script, tmp_path, capsys, quick):
    _, url = script(lambda q, n, sent: slow_down([('Retry-After', '300')]) if n == 1 else (200, good()))
    assert len(through(url, ask(5), tmp_path/'s.sqlite')) == 5 and quick.count(300) == 5
    assert capsys.readouterr().err.count('asks to wait 300 s: 429: slow down') == 1


WAITS = [([('Retry-After', '0.7')], '', .7), ([('retry-after-ms', '700')], '', .7), ([('Retry-After', '-1')], '', None),
         ([], 'Please try again in 2m1.5s.', 121.5), ([], 'Please retry after 23 seconds.', 23),
         ([], 'Please retry in 37.2s.', 37.2), ([('Retry-After', '2m')], '', 120),
         ([], 'Try again in 0h58m3s', 3483),
         ([], 'Please wait 30 seconds.', 30), ([], 'Retry after 2 minutes', 120), ([], 'again in 700ms', .7),
         ([], 'It resets in 3m20s; 5 messages left', 200), ([], 'wait for 5 more', None),
         ([('Retry-After', 'soon')], '', None)]


@pytest.mark.parametrize('headers, message, wait', WAITS)
def test_how_long_to_wait(script, tmp_path, quick, headers, message, wait):
    _, url = script(lambda q, n, sent: slow_down(headers, message) if n == 1 else (200, good()))
    through(url, ask(1), tmp_path/'s.sqlite')
    assert quick == [pytest.approx(wait)] if wait else quick[0] < 1


@pytest.mark.parametrize('more', [dict(retry_after=12.5), dict(retry_after_ms=12500), dict(retryDelay='12.5s')])
def test_how_long_to_wait_in_a_field(script, tmp_path, quick, more):
    _, url = script(lambda q, n, sent: error(429, 'busy', **more) if n == 1 else (200, good()))
    through(url, ask(1), tmp_path/'s.sqlite')
    assert quick == [12.5]


def test_what_one_server_puts_off_another_takes(script, tmp_path):
    (busy, here), (well, there) = (script(lambda q, n, sent: slow_down([('Retry-After', '60')])),
                                   script(lambda q, n, sent: (200, good(q))))
    start = time.monotonic()
    came = through(f'{here},{there}', ask(40), tmp_path/'s.sqlite', concurrency=2)
    assert [c.text for c in came] == [f'question {i}' for i in range(40)] and time.monotonic() - start < 20
    assert len(busy.seen) <= 2 and len(well.seen) == 40


def test_servers_that_all_put_off_are_waited_for(script, tmp_path, quick):
    def reply(q, n, sent): return slow_down([('Retry-After', '9')]) if n == 1 else (200, good(q))
    (_, here), (_, there) = script(reply), script(reply)
    assert not refused(through(f'{here},{there}', ask(20), tmp_path/'s.sqlite', concurrency=4)) and 9 in quick
    (_, here), (_, there) = [script(lambda *_: slow_down([('Retry-After', '9')])) for _ in range(2)]
    with pytest.raises(CgdError, match='nothing was answered: 429: slow down'):
        through(f'{here},{there}', ask(6), tmp_path/'t.sqlite')


def test_a_row_that_others_overtake_gets_its_turn(script, tmp_path, quick):
    _, url = script(lambda q, n, sent: slow_down([('Retry-After', '9')]) if number(q) == 0 and n < 9 else (200, good()))
    assert not refused(through(url, ask(400), tmp_path/'s.sqlite', concurrency=2, max_retries=3))


def test_patience_has_an_end(script, tmp_path, quick):
    for at in ('Wed, 01 Jan 2250 00:00:00 GMT', '7200'):
        _, url = script(lambda *_: slow_down([('Retry-After', at)]))
        with pytest.raises(CgdError, match=r'slow down; it asks to wait \d+ s, and max_wait is 3600; answers'):
            through(url, ask(9), tmp_path/'s.sqlite')


def trickle(handler):
    handler.send_response(200)
    for header in (('Content-Type', 'application/json'), ('Content-Length', '9999')): handler.send_header(*header)
    handler.end_headers()
    handler.close_connection = True
    try:
        for _ in range(100): handler.wfile.write(b' '); handler.wfile.flush(); time.sleep(.05)
    except OSError: pass   # the client hung up


def test_an_answer_that_trickles_in_is_bounded(script, tmp_path, capsys):
    _, url = script(lambda q, n, sent: trickle if number(q) == 3 else (200, good()))
    start = time.monotonic()
    assert refused(through(url, ask(10), tmp_path/'s.sqlite', timeout=.4, max_retries=1)) == [3]
    assert time.monotonic() - start < 4
    assert 'p3 is left out: timeout: 2 x 0.4 s without an answer' in capsys.readouterr().err


def test_what_is_no_text_is_said(script, tmp_path, capsys):
    call = dict(id='1', type='function', function=dict(name='add', arguments='{}'))
    replies = [good(None, 'tool_calls', tool_calls=[call]), good(None), good(None, reasoning_content='hm'),
               good('4', model='another-2026-11-01'), good(None, refusal='I will not.')]
    _, url = script(lambda q, n, sent: (200, replies[number(q)]))
    came = through(url, ask(5), tmp_path/'s.sqlite')
    assert [c.text for c in came] == ['', '', '', '4', 'I will not.']
    assert [c.finish_reason for c in came] == ['tool_calls', *['stop']*4]
    said = capsys.readouterr().err
    for words in ('p0: a call of a tool', 'p1: an answer without text\n', 'p2: an answer without text, only thoughts',
                  "answers come from 'another-2026-11-01'"): assert said.count(words) == 1


OF_ALL = {'wrong key': 401, 'Insufficient Balance': 402, 'API key not valid. Please pass a valid API key.': 400,
          'Your credit balance is too low to access the API': 400, 'The model `good` does not exist': 404,
          'good is not a valid model ID': 400, 'Forbidden': 403, 'page not found': 404, 'insufficient balance': 200}


@pytest.mark.parametrize('words', OF_ALL)
def test_a_fault_of_all_ends_the_run_at_once(script, tmp_path, words):
    server, url = script(lambda *_: error(OF_ALL[words], words))
    with pytest.raises(CgdError, match=f'{words}; answers up to here are kept'):
        through(url, ask(200), tmp_path/'s.sqlite', concurrency=4)
    assert len(server.seen) <= 8


def test_a_quota_that_is_spent_ends_the_run(script, tmp_path):
    def reply(q, n, sent):
        return (200, good()) if number(q) < 50 else error(429, 'You exceeded it', code='insufficient_quota')
    _, url = script(reply)
    with pytest.raises(CgdError, match='You exceeded it, insufficient_quota; answers up to here are kept'):
        through(url, ask(200), tmp_path/'s.sqlite', concurrency=1)
    with Store(tmp_path/'s.sqlite') as store: assert len(store) == 50


def test_a_setting_of_all_ends_the_run_after_some(script, tmp_path):
    server, url = script(lambda *_: error(400, 'response_format is wanted'))
    with pytest.raises(CgdError, match='response_format is wanted; answers up to here are kept'):
        through(url, ask(200), tmp_path/'s.sqlite', concurrency=4)
    assert len(server.seen) <= 40
    with pytest.raises(CgdError, match='nothing was answered: 400: response_format is wanted'):
        through(url, ask(3), tmp_path/'s.sqlite')


def test_filtered_rows_alone_end_nothing(script, tmp_path):
    _, url = script(lambda q, n, sent: REFUSALS['filter'] if number(q) < 60 else (200, good()))
    assert refused(through(url, ask(70), tmp_path/'s.sqlite', concurrency=4)) == list(range(60))
    assert refused(through(url, ask(60), tmp_path/'t.sqlite')) == list(range(60))


def test_many_alike_are_said_compactly(script, tmp_path, capsys):
    _, url = script(lambda q, n, sent: error(400, f'bad row of {number(q)} words') if number(q) % 2 else (200, good()))
    through(url, ask(300), tmp_path/'s.sqlite')
    *named, rest = capsys.readouterr().err.splitlines()
    assert len(named) == 10 and '140 more are left out (400: bad row of' in rest and rest.endswith(', ...')
    assert len(re.findall(r'\bp\d+', rest)) == 100


def test_a_row_that_fails_every_time_is_left_out(script, tmp_path, capsys, quick):
    def hang_up(handler): handler.close_connection = True; handler.connection.close()
    bad = {3: error(500, 'boom'), 5: hang_up, 7: (200, b'{"id": ')}
    server, url = script(lambda q, n, sent: bad.get(number(q)) or (200, good()))
    assert refused(through(url, ask(40), tmp_path/'s.sqlite', concurrency=4)) == [3, 5, 7]
    said = capsys.readouterr().err
    for words in ('p3 is left out: 500: boom', 'p5 is left out: no answer from', 'p7 is left out: 3 answers in a row'):
        assert said.count(words) == 1
    with pytest.raises(CgdError, match='nothing was answered'):
        through(url, [ask(4)[3]], tmp_path/'t.sqlite')   # nothing tells whose fault it is
    assert refused(through(url, ask(40), tmp_path/'s.sqlite')) == [3, 5, 7]   # here the store tells


def test_a_server_that_breaks_down_ends_the_run(script, tmp_path, quick):
    server, url = script(lambda q, n, sent: (200, good()) if len(server.seen) < 50 else error(500, 'out of memory'))
    with pytest.raises(CgdError, match='out of memory; answers up to here are kept'):
        through(url, ask(300), tmp_path/'s.sqlite', concurrency=4)
    assert len(server.seen) < 80
    with Store(tmp_path/'s.sqlite') as store: assert 45 <= len(store) <= 50


SICK = [error(401, 'wrong key'), error(404, 'no such model'), error(500, 'boom'), error(400, 'odd'), (200, 'soup'),
        error(400, 'context size of 8 exceeded'), REFUSALS['filter'], slow_down([('Retry-After', '86400')])]


@pytest.mark.parametrize('fault', SICK, ids=lambda f: str(f[1])[:40])
def test_a_fault_of_one_server_is_not_the_rows(script, tmp_path, quick, fault):
    (sick, here), (well, there) = script(lambda *_: fault), script(lambda q, n, sent: (200, good(q)))
    for _ in range(2):
        came = through(f'{here},{there}', ask(60), tmp_path/'s.sqlite', concurrency=4, max_retries=1)
        assert [(c.text, c.finish_reason) for c in came] == [(f'question {i}', 'stop') for i in range(60)]
    assert asked(well) == {f'question {i}': 1 for i in range(60)}


def test_a_row_that_all_servers_refuse(script, tmp_path, capsys):
    def reply(q, n, sent): return REFUSALS['filter'] if number(q) == 7 else (200, good(q))
    (one, here), (two, there) = script(reply), script(reply)
    assert refused(through(f'{here},{there}', ask(20), tmp_path/'s.sqlite')) == [7]
    assert (asked(one)['question 7'], asked(two)['question 7']) == (1, 1)
    assert capsys.readouterr().err.count('p7 is left out') == 1


def test_a_key_that_is_none_is_one_line(script, tmp_path, monkeypatch):
    server, url = script(lambda *_: (200, good()))
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-ü')
    with pytest.raises(CgdError, match='OPENAI_API_KEY has characters'): through(url, ask(1), tmp_path/'s.sqlite')
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-1\n')   # as files end
    assert through(url, ask(1), tmp_path/'s.sqlite')[0].text == '4' and server.keys == {'Bearer sk-1'}


def test_stages_leave_refused_rows_out(script, tmp_path, capsys):
    "A refused draft is not put to the teacher, one without a critique is not refined, a refused answer is not right"
    stage = ['draft']
    def reply(question, n, sent):
        if question == 'question 1': return REFUSALS['filter']
        return 200, good('  \n' if 'question 2' in question and stage[0] == 'critique' else '4')
    server, url = script(reply)
    problems = [dict(problem_id=f'p{i}', prompt=f'question {i}', reference='4') for i in range(4)]
    with open_engine(f'openai:good@{url}') as engine, Store(tmp_path/'s.sqlite') as store:
        drafts, teacher = draft(problems, engine, store, SampleConfig()), LMTeacher(engine, TeacherConfig())
        assert [d['draft_finish'] for d in drafts] == ['stop', 'refused', 'stop', 'stop']
        assert [d['problem_id'] for d in drop_unreadable(drafts)] == ['p0', 'p2', 'p3']
        stage[0], before = 'critique', len(server.seen)
        critiques = critique(drafts, teacher, store)
        assert [c['critique_finish'] for c in critiques] == ['stop', 'no draft', 'stop', 'stop']
        assert len(server.seen) == before + 3
        stage[0] = 'refine'
        refined = refine(critiques, teacher, store)
        assert [r['refinement_finish'] for r in refined] == ['stop', 'no critique', 'no critique', 'stop']
        assert [r['refinement'] for r in refined] == ['4', '', '', '4'] and len(server.seen) == before + 5
        assert 'refine: left out 2 of 4 rows without a critique' in capsys.readouterr().err
        records = evaluate(engine, problems, EvalConfig(template='{prompt}'), store)
    assert [r['finish_reason'] for r in records] == ['stop', 'refused', 'stop', 'stop']
    assert records[1]['strict'] != 'right' and summarise(records)['flexible'] == .75
    assert '1 of 4 answers were refused and are not right' in capsys.readouterr().err
    with pytest.raises(CgdError, match='refused every prompt'): drop_unreadable(drafts[1:2])


def test_refused_teaching_is_named_and_dropped_by_every_view(script, tmp_path, capsys):
    _, url = script(lambda q, n, sent: REFUSALS['filter'] if 'question 1' in q else (200, good('4')))
    row = dict(sample=0, student='s', reference='4', solution='4', draft='5', draft_grade='wrong', draft_finish='stop')
    rows = [row | dict(problem_id=f'p{i}', prompt=f'question {i}') for i in range(3)]
    with open_engine(f'openai:good@{url}') as engine, Store(tmp_path/'s.sqlite') as store:
        traces = teach(rows, LMTeacher(engine, TeacherConfig()), store)
    assert [t['critique_finish'] for t in traces] == ['stop', 'refused', 'stop']
    assert f'p1 (row {traces[1]["row_id"]}) is left out: 400: The response was filtered' in capsys.readouterr().err
    for view in ('cgd', 'cft', 'dsft_refined'): assert len(build(traces, view)) == 2


def test_refused_rows_are_asked_again_and_others_not(script, tmp_path):
    server, url = script(lambda q, n, sent: REFUSALS['filter'] if q == 'question 1' else (200, good('4')))
    problems = [dict(problem_id=f'p{i}', prompt=f'question {i}', reference='4') for i in range(4)]
    for times in (1, 2):
        with open_engine(f'openai:good@{url}') as engine, Store(tmp_path/'s.sqlite') as store:
            draft(problems, engine, store, SampleConfig())
        assert asked(server) == {f'question {i}': times if i == 1 else 1 for i in range(4)}


BAD = {3: REFUSALS['filter'], 13: LONG[1], 23: REFUSALS['string'], 33: (422, dict(detail='odd')),
       43: error(500, 'always'), 53: trickle, 63: REFUSALS['list']}
LEFT = [i for i in range(300) if i % 100 in BAD and i % 100 != 13]   # refused; one in a hundred is too long


def misbehave(seed):
    "Replies in all of these ways at once"
    draw = random.Random(seed)
    passing = [error(500, 'oh no'), (200, b'{"id"'), error(200, 'busy', code=503), (502, b'<html>gone</html>')]
    def reply(question, n, sent):
        i, kind, text = number(question) % 100, number(question) % 10, f'answer to {question}'
        if i in BAD: return BAD[i]
        if i == 88 and 'temperature' in sent: return UNTAKEN['temperature']
        if n == 1 and kind == 0: return draw.choice(passing)
        if n == 1 and kind == 1: return slow_down([('Retry-After', '0.2')])
        return 200, {2: good(text, usage=None), 4: good([CONTENTS[3][0][0], dict(type='text', text=text)]),
                     5: good(text, 'end_turn'), 6: good(text, 'banana'), 7: good(text, usage=dict(total_tokens=7)),
                     8: good(text, model='another')}.get(kind) or good(text)
    return reply


def test_three_hundred_requests_through_all_of_it(script, tmp_path, capsys):
    server, url = script(misbehave(0))
    start = time.monotonic()
    came = through(url, ask(300), tmp_path/'s.sqlite', timeout=1., max_retries=3)
    assert time.monotonic() - start < 30 and refused(came) == LEFT
    said, whole = capsys.readouterr().err, [i for i in range(300) if i % 100 not in BAD]
    assert all((came[i].text, came[i].finish_reason) == (f'answer to question {i}', 'stop') for i in whole)
    assert {came[i].finish_reason for i in (13, 113, 213)} == {'too_long'}
    assert all(f'p{i} is left out: ' in said for i in [*LEFT, 13, 113, 213])
    for words in ('400: The response was filtered', '500: Context size has been exceeded', '400: not this one',
                  '422: odd', '500: always', 'timeout: 4 x 1 s', '400: no such luck'): assert said.count(words) == 3
    for once in ("finish_reason 'banana'", 'numbers stay unknown', "answers come from 'another'", 'temperature is le'):
        assert said.count(once) == 1
    before = asked(server)
    assert all(n == 1 for q, n in before.items() if number(q) % 10 not in (0, 1, 3, 8))
    through(url, ask(300), tmp_path/'s.sqlite', timeout=1., max_retries=3)
    assert sorted(number(q) for q, n in asked(server).items() if n > before[q]) == LEFT   # nothing that was answered


def test_killed_half_way_it_goes_on(script, tmp_path):
    server, url = script(misbehave(1))
    code = ('import sys; from test_endpoints import ask, through; '
            'through(sys.argv[1], ask(300), sys.argv[2], timeout=1., max_retries=3, concurrency=4)')
    command = [sys.executable, '-c', code, url, str(tmp_path/'s.sqlite')]
    work = subprocess.Popen(command, cwd=os.path.dirname(__file__), stderr=subprocess.DEVNULL)
    while len(server.seen) < 150: assert work.poll() is None; time.sleep(.02)
    work.send_signal(signal.SIGKILL)
    work.wait()
    with Store(tmp_path/'s.sqlite') as store: rows = store._do('SELECT request FROM completions')
    kept, before = {json.loads(row)['messages'][-1]['content'] for row, in rows}, asked(server)
    came = through(url, ask(300), tmp_path/'s.sqlite', timeout=1., max_retries=3)
    assert len(kept) > 100 and all(asked(server)[q] == before[q] for q in kept)   # nothing that was answered
    assert refused(came) == LEFT
