"Benchmarks: every set loads in its own form and refuses another file; every checker tells good replies from bad ones, the same each time; strangers' code is confined"
import gzip
import json
import os
import random
import socket
import string
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from cgd.benchmarks import (
    _follow_many, _follows, _mc_scores, _passes, _to_program, BENCHMARKS, Items, grade_items, ifeval_scores,
    load_benchmark, registry, run_code, score_items, to_item)
from cgd.answers import drop_thoughts
from cgd.core import CgdError
from cgd.evaluate import regrade_items
from cgd.store import Store, sessions
from cgd.engines import open_engine

ROWS = json.loads((Path(__file__).parent/'fixtures'/'hub_rows.json').read_text())
FOLDER = os.environ.get('CGD_BENCH_DIR')
bench = pytest.mark.skipif(not FOLDER, reason='CGD_BENCH_DIR is not set')


# --- loading

@pytest.mark.parametrize('name', [n for n in ROWS if n != 'mmlu_pro_validation'])
def test_rows_in_the_hubs_form(name):
    items = [to_item(raw, BENCHMARKS[name]) for raw in ROWS[name]]
    for item in items:
        assert item['prompt'] and set(item) == {'problem_id', 'source', 'prompt', 'reference', 'solution', 'item'}
        assert json.loads(json.dumps(item)) == item
    first = dict(math500='2', minerva='100', gsm8k='7', olympiad='$1,-1$', amc23='5', aime24='025', aime25='33', theoremqa='2.5', mmlu_pro='B', musr='A', bbh='False', ifeval=None)
    if name in first: assert items[0]['reference'] == first[name]
    if name == 'olympiad': assert items[1]['item'] == dict(answer_type='Numerical', error='1e-1', unit='%', is_multiple_answer=False)
    if name == 'ifeval': assert items[0]['item']['kwargs'] == [{}, dict(num_words=1, relation='at least')]
    if name == 'truthfulqa': assert items[0]['item']['mc2'] == {'No.': 1, 'It is rock.': 1, 'Yes.': 0}
    if name == 'gpqa_diamond':
        assert [i['item']['options']['ABCD'.index(i['reference'])] for i in items] == ['neon', 'Mars', 'uracil']
        assert len({i['reference'] for i in items}) > 1 and items == [to_item(raw, BENCHMARKS[name]) for raw in ROWS[name]]


def hub_folder(folder, config, split, rows) -> str:
    "A dataset as the Hub keeps it, on this disk"
    folder.mkdir(exist_ok=True)
    (folder/f'{split}.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
    splits = ''.join(f'  - split: {f.stem}\n    path: {f.name}\n' for f in sorted(folder.glob('*.jsonl')))
    (folder/'README.md').write_text(f'---\nconfigs:\n- config_name: {config}\n  data_files:\n{splits}---\n')
    return str(folder)


@pytest.mark.parametrize('name, config, split', [('aime25', 'default', 'test'), ('gpqa_diamond', 'gpqa_diamond', 'train'), ('bbh', '*', 'test')])
def test_from_the_hub(name, config, split, tmp_path, monkeypatch):
    "Through datasets itself, from a folder in the Hub's form"
    monkeypatch.setenv('CGD_BENCH_DIR', str(tmp_path))
    folder = hub_folder(tmp_path/'set', 'words' if config == '*' else config, split, ROWS[name])
    if name == 'bbh':
        with pytest.raises(CgdError, match='worked examples are not on the Hub'): load_benchmark(replace(BENCHMARKS[name], hub=f'{folder}:{config}:{split}'))
        with gzip.open(tmp_path/'bbh_cot_prompts.jsonl.gz', 'wt') as f: f.write(json.dumps(dict(subject='words', problem='a canary\n-----\nSee:\n\nQ: 1\nA: 2')))
    items = load_benchmark(replace(BENCHMARKS[name], hub=f'{folder}:{config}:{split}'), check=name != 'bbh')   # these worked examples are made up
    assert len(items) == len(ROWS[name]) and not items.verified and not items.skipped
    if name == 'bbh': assert items.messages(items[0])[0]['content'] == "See:\n\nQ: 1\nA: 2\n\nQ: not True is\nA: Let's think step by step."


def test_what_is_not_there_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv('CGD_BENCH_DIR', str(tmp_path))
    for config in ('', '*'):
        with pytest.raises(CgdError, match='hub:.*nowhere(.|\n)*set CGD_BENCH_DIR'): load_benchmark(replace(BENCHMARKS['aime25'], hub=f'{tmp_path}/nowhere:{config}'))
    with pytest.raises(CgdError, match='did you mean `olympiad`'): load_benchmark('olympaid')


def test_five_examples_of_the_same_subject(tmp_path, monkeypatch):
    monkeypatch.delenv('CGD_BENCH_DIR', raising=False)
    folder = hub_folder(tmp_path/'set', 'default', 'validation', ROWS['mmlu_pro_validation'])
    hub_folder(tmp_path/'set', 'default', 'test', ROWS['mmlu_pro'])
    items = load_benchmark(replace(BENCHMARKS['mmlu_pro_5shot'], hub=f'{folder}::test', shots=f'hub:{folder}::validation'))
    asked = items.messages(items[0])[0]['content']
    assert asked.count('The answer is (B).') == 2 and 'Ohm' not in asked and asked.index('prime') < asked.index('even') and 'B. 2' in asked


@bench
def test_worked_examples_have_a_checksum_too(tmp_path, monkeypatch):
    for name in ('bbh.jsonl.gz', 'bbh_cot_prompts.jsonl.gz'): (tmp_path/name).write_bytes(Path(FOLDER, name).read_bytes())
    monkeypatch.setenv('CGD_BENCH_DIR', str(tmp_path))
    assert load_benchmark('bbh', 1).verified
    with gzip.open(tmp_path/'bbh_cot_prompts.jsonl.gz', 'at') as f: f.write('\n')
    with pytest.raises(CgdError, match='bbh_cot_prompts: .*sha256|bbh_cot_prompts is known by'): load_benchmark('bbh', 1)
    assert load_benchmark('bbh', 1, check=False).shots


def test_shipped_sets_have_checksums(monkeypatch):
    assert all(load_benchmark(name, 1).verified for name in ('train', 'val', 'test', 'test_large', 'shifted'))
    with pytest.raises(CgdError, match='not the file that test is known by'): load_benchmark(replace(BENCHMARKS['test'], sha256='0'*64), 1)


def test_another_file_is_refused_and_says_both_sums(tmp_path, monkeypatch):
    monkeypatch.setenv('CGD_BENCH_DIR', str(tmp_path))
    with gzip.open(tmp_path/'amc23.jsonl.gz', 'wt') as f: f.write('{"id": "a", "problem": "1+1?", "answer": "2"}\n{"id": "b"}\n')
    with pytest.raises(CgdError, match=rf'sha256 is [0-9a-f]{{64}}, expected {BENCHMARKS["amc23"].sha256}.*check=False'): load_benchmark('amc23')
    items = load_benchmark('amc23', check=False)
    assert (len(items), items.verified, len(items.skipped)) == (1, False, 1) and 'no prompt' in items.skipped[0]
    monkeypatch.setenv('CGD_BENCH_DIR', str(tmp_path/'none'))
    with pytest.raises(CgdError, match='CGD_BENCH_DIR: .*no folder'): load_benchmark('amc23')


@bench
def test_all_sets_of_the_folder_have_the_published_numbers():
    found = {line['name']: line['here'] for line in registry()}
    missing = {name: n for name, n in found.items() if n != (747 if name == 'theoremqa' else BENCHMARKS[name].n)}
    assert missing == dict(aime25=None, gpqa_diamond=None, mmlu_pro_5shot=None)


@bench
def test_ids_are_unique_and_shots_whole():
    for name in ('musr', 'bbh', 'ifeval'):
        items = load_benchmark(name)
        assert items.verified and len({r['problem_id'] for r in items}) == len(items) and not items.skipped
        if name == 'bbh': assert len(items.shots) == 27 and all('canary' not in s and s.count('\nQ:') == 3 for s in items.shots.values())


# --- answers

def test_thoughts_are_no_answer():
    ask = load_benchmark('test', limit=1)
    gold = ask[0]['reference']
    texts = [f'<think>perhaps \\boxed{{0}}</think>\\boxed{{{gold}}}', f'<think>\\boxed{{{gold}}}', f'\\boxed{{{gold}}}', f'<think>\\boxed{{{gold}}}</think>It is 0 \\boxed{{0}}', '']
    assert [r['strict'] for r in grade_items(ask.benchmark, ask.rows*5, texts)] == ['right', 'no_answer', 'right', 'wrong', 'no_answer']
    assert drop_thoughts('a</think>b</think> c') == ' c'


@bench
@pytest.mark.parametrize('name', ['bbh', 'musr', 'mmlu_pro', 'theoremqa'])
def test_every_gold_passes_and_another_rows_answer_does_not(name, long):
    items = load_benchmark(name, limit=None if long else 1500)
    main, draw = items.benchmark.graders[0], random.Random(0)
    only = replace(items.benchmark, graders=(main,))
    rows = [r for r in items if r['item'].get('subject') != 'dyck_languages']   # rows of brackets are no content for a box
    def right(texts, rows=rows): return sum(g[main] == 'right' for g in grade_items(only, rows, texts)) / len(rows)
    for form in ('\\boxed{%s}', 'So the answer is %s.', 'The answer is  %s', '**The answer is: %s**', '<think>no</think>Thus $\\boxed{%s}$.'):
        assert right([form % r['reference'] for r in rows]) >= .995, form
    if name == 'bbh': assert right([f'So the answer is {r["reference"]}.' for r in items], items.rows) >= .995
    alike = {}
    for r in rows: alike.setdefault(r['item'].get('answer_type', r['item'].get('subject')), set()).add(r['reference'])
    others = [draw.choice(sorted(alike[r['item'].get('answer_type', r['item'].get('subject'))] - {r['reference']}) or ['none']) for r in rows]
    assert right([f'\\boxed{{{o}}}' for o in others]) <= (.02 if name == 'theoremqa' else 0)   # 4% apart is equal there, and so are 1 and 1.0


def test_what_a_grader_stumbles_over_is_an_outcome(monkeypatch, caplog):
    theoremqa, row = BENCHMARKS['theoremqa'], dict(reference='12', item=dict(answer_type='float'), prompt='')
    inside = '10^{999}', '-1e-999', '12.1', '9'*5000, '9^{9^{9^{9}}}', 'nan'
    texts = [*(f'\\boxed{{{t}}}' for t in inside), 'x' + '['*100_000]
    found = grade_items(theoremqa, [row]*len(texts), texts)
    assert [r['tolerant'] for r in found] == ['wrong', 'wrong', 'right', 'wrong', 'wrong', 'wrong', 'no_answer']
    assert not caplog.text
    broken = dict(row, item=dict(error='much'))               # a row that its own grader cannot read
    found = grade_items(replace(theoremqa, graders=('tolerant', 'strict')), [row, broken, row], ['\\boxed{12}']*3)
    assert [(r['tolerant'], r['tolerant_answer']) for r in found] == [('right', '12'), ('wrong', '12'), ('right', '12')]
    assert {r['strict'] for r in found} == {'right'}
    assert 'tolerant: 1 of 3 answers could not be graded and count as wrong; the first: ValueError' in caplog.text


def test_answers_are_graded_again_whatever_they_are():
    items = Items(BENCHMARKS['theoremqa'], [to_item(r, BENCHMARKS['theoremqa']) for r in ROWS['theoremqa'][:1]])
    record = dict(id=items[0]['problem_id'], sample=0, completion='\\boxed{10^{999}}')
    assert regrade_items(items, [record])[0]['tolerant'] == 'wrong'


# --- IFEval

REPLIES = {  # instruction -> its arguments, replies that follow it, replies that do not; made up
    'keywords:existence': (dict(keywords=['river', 'stone']), ['A River runs over a stone.', 'stone, river'], ['A river runs.', 'rivulet']),
    'keywords:frequency': (dict(keyword='tea', frequency=2, relation='at least'), ['Tea, and more tea.', 'tea tea tea'], ['Tea.', 'coffee']),
    'keywords:forbidden_words': (dict(forbidden_words=['cat']), ['A category of dogs.', 'Dogs.'], ['The cat sat.', 'CAT']),
    'keywords:letter_frequency': (dict(letter='z', let_frequency=2, let_relation='at least'), ['A buzz.', 'Zigzag'], ['A zoo.', 'none']),
    'language:response_language': (dict(language='de'), ['Das Wetter ist heute sehr schön, und wir gehen spazieren.'], ['The weather is lovely today, and we go for a walk.']),
    'length_constraints:number_sentences': (dict(relation='less than', num_sentences=3), ['One. Two.', 'Dr. Lee met Mr. Oh at 5 p.m. sharp. They spoke.'], ['One is here. Two is here. Three is here.']),
    'length_constraints:number_paragraphs': (dict(num_paragraphs=2), ['One.\n***\nTwo.', '***\nOne.\n***\nTwo.'], ['One.\n\nTwo.', 'One.\n***\nTwo.\n***\nThree.', 'One.\n***\n\n***\nTwo.']),
    'length_constraints:number_words': (dict(relation='at least', num_words=5), ['one two three four five', "It's one two three"], ['one two three four']),
    'length_constraints:nth_paragraph_first_word': (dict(num_paragraphs=2, nth_paragraph=2, first_word='Then'), ['First.\n\nThen, more.', 'First.\n\n"then" more'], ['Then.\n\nFirst.', 'Then', 'a\n\nb\n\nthen']),
    'detectable_content:number_placeholders': (dict(num_placeholders=2), ['Dear [name], at [place].'], ['Dear [name].', 'Dear (name) at (place).']),
    'detectable_content:postscript': (dict(postscript_marker='P.S.'), ['Bye.\nP.S. Write soon.', 'Bye. p. s. Write.'], ['Bye.', 'Bye. PPS']),
    'detectable_format:number_bullet_lists': (dict(num_bullets=2), ['* one\n* two', '- one\n- two'], ['* one', '* one\n* two\n* three', '1. one\n2. two']),
    'detectable_format:constrained_response': ({}, ['My answer is yes.', 'I think: My answer is maybe.'], ['Yes.', 'my answer is perhaps']),
    'detectable_format:number_highlighted_sections': (dict(num_highlights=2), ['*one* and *two*', '**one** *two*'], ['*one*', 'one\n* two']),
    'detectable_format:multiple_sections': (dict(section_spliter='SECTION', num_sections=2), ['SECTION 1\na\nSECTION 2\nb'], ['SECTION 1\na', 'Part 1\na\nPart 2\nb']),
    'detectable_format:json_format': ({}, ['{"a": 1}', '```json\n[1, 2]\n```'], ['{"a": 1', "{'a': 1}", 'Here: {"a": 1}']),
    'detectable_format:title': ({}, ['<<A day>>\nIt began.'], ['A day\nIt began.', '<< >>']),
    'combination:two_responses': ({}, ['One.\n******\nTwo.'], ['One.', 'One.\n******\nOne.', 'One.\n***\nTwo.', 'a******b******c']),
    'combination:repeat_prompt': (dict(prompt_to_repeat='Name a colour.'), ['Name a colour.\nBlue.', 'name a colour. Blue.'], ['Blue.', 'Sure! Name a colour. Blue.']),
    'startend:end_checker': (dict(end_phrase='That is all.'), ['Hello. That is all.', '"Hello. THAT IS ALL."'], ['That is all. Hello.', 'Hello.']),
    'startend:quotation': ({}, ['"Hello."'], ['Hello.', '"Hello."!', '"']),
    'change_case:capital_word_frequency': (dict(capital_frequency=2, capital_relation='at least'), ['I say STOP NOW to them.', 'WAIT. STOP it'], ['We say STOP to them.', 'stop now']),
    'change_case:english_capital': ({}, ['THE WEATHER IS LOVELY TODAY, AND WE GO FOR A WALK.'], ['The weather is lovely today.', 'DAS WETTER IST HEUTE SEHR SCHÖN UND WIR GEHEN SPAZIEREN.']),
    'change_case:english_lowercase': ({}, ['the weather is lovely today, and we go for a walk.'], ['The weather is lovely today.', 'das wetter ist heute sehr schön und wir gehen spazieren.']),
    'punctuation:no_comma': ({}, ['Hello you.'], ['Hello, you.']),
}


@pytest.fixture(scope='module')
def checkers(): return pytest.importorskip('lm_eval', reason="lm-eval is not installed: pip install 'cgd[eval]'")


def rule(*names, prompt='Made up.') -> dict:
    return dict(problem_id='r', prompt=prompt, item=dict(key=0, instruction_id_list=list(names), kwargs=[REPLIES[n][0] for n in names]))


@pytest.mark.parametrize('name', REPLIES)
def test_each_kind_of_instruction(checkers, name):
    _, good, bad = REPLIES[name]
    assert [_follows(rule(name), t)['followed_strict'] for t in good + bad] == [[True]]*len(good) + [[False]]*len(bad)


@bench
def test_these_are_all_kinds_there_are(checkers):
    assert {name for row in load_benchmark('ifeval') for name in row['item']['instruction_id_list']} == set(REPLIES) and len(REPLIES) == 25


def test_loose_forgives_what_is_wrapped_around(checkers):
    cases = {'Sure, here:\nHello you.': ('wrong', 'right'), '*Hello you*': ('right', 'right'), 'Hello, you.': ('wrong', 'wrong'), ' ': ('no_answer', 'no_answer')}
    assert {t: tuple(v for k, v in _follows(rule('punctuation:no_comma'), t).items() if k.startswith('ifeval')) for t in cases} == cases


def test_the_four_metrics(checkers):
    pair = rule('punctuation:no_comma', 'startend:quotation')
    records = [_follows(pair, t) for t in ('"Hi."', '"Hi, you."', 'Hi, you.', 'Sure, so:\n"Hi."')]
    assert ifeval_scores(records) == dict(prompt_strict=1/4, instruction_strict=3/8, prompt_loose=2/4, instruction_loose=5/8)


def test_graded_twenty_times_the_same(checkers):
    "Short replies, whose language an unseeded langdetect guesses anew each time: `auto` is French in three of five tries"
    items = [dict(rule('language:response_language'), item=dict(key=0, instruction_id_list=['language:response_language'], kwargs=[dict(language=l)])) for l in ('fr', 'it', 'de')]
    texts = ['auto', 'Casa bella', 'the der die']
    first = grade_items(BENCHMARKS['ifeval'], items, texts)
    assert all(grade_items(BENCHMARKS['ifeval'], items, texts) == first for _ in range(19))
    one, text = load_benchmark('test', limit=1), ['It is \\boxed{\\frac{84}{2}}, or 42']
    assert len({json.dumps(grade_items(one.benchmark, one.rows, text)) for _ in range(20)}) == 1


TOTALS = """
import json, random, sys
from cgd.benchmarks import BENCHMARKS, grade_items, ifeval_scores
items, texts = json.load(open(sys.argv[1]))
pairs = list(zip(items, texts))
if sys.argv[2] == 'reversed': pairs.reverse()
print(json.dumps(ifeval_scores(grade_items(BENCHMARKS['ifeval'], *zip(*pairs)))))
"""


def test_ifeval_is_the_same_in_every_process_and_order(checkers, tmp_path):
    "With rules that name no letter, or one that is none: lm-eval draws one anew in each call"
    at_least, less = dict(let_frequency=2, let_relation='at least'), dict(let_frequency=2, let_relation='less than')
    letters = [dict(letter='#', **at_least), dict(letter='!', **less), at_least, {}]
    others = 'keywords:existence', 'keywords:frequency', 'length_constraints:nth_paragraph_first_word'
    def item(i, kwargs, more):
        return dict(problem_id=str(i), prompt='Made up.', item=dict(
            key=i, instruction_id_list=['keywords:letter_frequency', *more], kwargs=[kwargs, *[{} for _ in more]]))
    items = [item(i, kwargs, more) for i, kwargs in enumerate(letters*8) for more in ((), others)]
    texts = [''.join(random.Random(i).choices(string.ascii_letters + '#! ', k=60)) for i in range(len(items))]
    (tmp_path/'i.json').write_text(json.dumps([items, texts]))
    def run(order):
        command = [sys.executable, '-c', TOTALS, tmp_path/'i.json', order]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    first = grade_items(BENCHMARKS['ifeval'], items, texts)
    assert run('as they are') == run('reversed') == ifeval_scores(first)
    assert [_follows(row, text) for row, text in zip(items, texts)] == first


@pytest.mark.parametrize('sign', '#!')
def test_the_sign_that_is_asked_for_is_counted(checkers, sign):
    kwargs = dict(letter=sign, let_frequency=3, let_relation='at least')
    item = dict(key=0, instruction_id_list=['keywords:letter_frequency'], kwargs=[kwargs])
    texts = f'{sign} a {sign} b {sign}', f'{sign} abc', string.ascii_lowercase*3
    said = [_follows(dict(problem_id='r', prompt='Made up.', item=item), text)['ifeval_strict'] for text in texts]
    assert said == ['right', 'wrong', 'wrong']


def test_nothing_is_downloaded(checkers, monkeypatch):
    import nltk
    from cgd.benchmarks import instruction_checks
    def refuse(*_, **__): raise AssertionError('went to the network')
    monkeypatch.setattr(nltk, 'download', refuse)
    monkeypatch.setattr(socket, 'create_connection', refuse)
    for module in [m for m in sys.modules if m.startswith('lm_eval.tasks.ifeval')]: monkeypatch.delitem(sys.modules, module)
    instruction_checks.cache_clear()
    assert _follows(rule('length_constraints:number_sentences', 'change_case:capital_word_frequency'), 'WAIT, STOP.')['followed_strict'] == [True, True]


def test_odd_replies_are_graded_too(checkers):
    everything = rule(*REPLIES)
    for text in ('[' * 3_000, '\ud800', '\x00', '*' * 1_000, '***\n' * 200, '。' * 999, '<<' * 200, '"', '🙂' * 50, '12 34'):
        assert len(_follows(everything, text)['followed_strict']) == 25


def test_a_reply_that_takes_for_ever_times_out(checkers, long):
    title, comma, wordy = rule('detectable_format:title'), rule('punctuation:no_comma'), 'word ' * 2_000
    found = _follow_many([title, comma, comma][:3 if long else 1], ['<<' * 200_000, wordy, wordy + ','][:3 if long else 1], timeout=2)
    assert [r['ifeval_strict'] for r in found] == ['timeout', 'right', 'wrong'][:len(found)] and found[0]['followed_loose'] == [False]


# --- code

@bench
def test_canonical_solutions_pass_and_emptied_ones_fail(long):
    rows = load_benchmark('humaneval').rows
    rows = rows if long else random.Random(0).sample(rows, 20)
    right = ['    ' + r['reference'] for r in rows]
    whole = [f'Here it is:\n```python\n{r["item"]["prompt"]}    {r["reference"]}\n```\nIt works.' for r in rows]
    results = grade_items(BENCHMARKS['humaneval'], rows*3, right + whole + ['    pass']*len(rows), allow_code=True)
    n = len(rows)
    assert [(r['problem_id'], g['code_error']) for r, g in zip(rows*2, results) if g['code'] != 'right'] == []
    assert [g['code'] for g in results[2*n:]] == ['wrong']*n


def test_code_is_off_unless_allowed():
    row = to_item(ROWS['humaneval'][0], BENCHMARKS['humaneval'])
    with pytest.raises(CgdError, match='--allow-code'): grade_items(BENCHMARKS['humaneval'], [row], ['    return 2 * x'])
    assert [g['code'] for g in grade_items(BENCHMARKS['humaneval'], [row]*2, ['    return 2 * x', ''], allow_code=True)] == ['right', 'no_answer']


@pytest.mark.parametrize('reply', ['    return 2 * x', 'return 2 * x', 'def double(x): return 2 * x', 'Thus:\n\ndef double(x):\n    return x + x',
    '```python\ndef double(x):\n    return 2 * x\n```\n```python\nprint(double(1))\n```', '```py\n    return 2 * x', 'import math\ndef double(x): return int(math.ldexp(x, 1))',
    'Here:\n\ndef double(x):\n    return 2 * x\n\nThis doubles the value, so it works.', '```python\ndef double(x):\n    return 2 * x\n```\nNow `double(2)` is 4.\n```\n4\n```',
    'def double(x):\n    return 2 * x\nIt works because 2 * x is twice x.\n\nRegards'])
def test_forms_of_a_reply(reply):
    row = to_item(ROWS['humaneval'][0], BENCHMARKS['humaneval'])
    assert run_code(_to_program(row, reply))['outcome'] == 'right'


DOUBLE = 'def double(x):\n    return 2 * x\n'
USE = 'print(double(int(input())))'
AROUND = dict(   # what may stand around the function without counting
    main_block=f'{DOUBLE}if __name__ == "__main__":\n    {USE}\n',
    exit_in_main=f'import sys\n{DOUBLE}if __name__ == "__main__":\n    sys.exit(double(3))\n',
    arguments=f'import argparse\n{DOUBLE}if __name__ == "__main__":\n    argparse.ArgumentParser().parse_args(["x"])\n',
    arguments_at_once=f'import argparse\n{DOUBLE}args = argparse.ArgumentParser().parse_args(["x"])\n',
    input_after=f'{DOUBLE}n = int(input())\nprint(double(n))\n',
    input_before=f'n = int(input())\n{DOUBLE}',
    ends=f'{DOUBLE}exit()\n',
    sys_exit=f'import sys\n{DOUBLE}sys.exit(1)\n',
    a_wrong_example=f'{DOUBLE}assert double(2) == 5\n',
    a_loop=f'{DOUBLE}while True:\n    {USE}\n',
    main=f'{DOUBLE}def main():\n    {USE}\n\nmain()\n',
    unittest=f"import unittest\n{DOUBLE}class T(unittest.TestCase):\n    def test(self): assert 0\nunittest.main()\n",
    helper_after='def double(x):\n    return twice(x)\n\ndef twice(x):\n    return 2 * x\n',
    table_after='def double(x):\n    return K * x\nK = 2\n',
    table_before='K = []\nfor i in range(9):\n    K.append(2 * i)\ndef double(x):\n    return K[x]\n',
    future=f'from __future__ import annotations\n{DOUBLE}',
    assigned='double = lambda x: 2 * x\n',
    recursive='def double(x):\n    return 0 if x == 0 else 2 + double(x - 1)\n',
    decorated=f'import functools\n\n@functools.lru_cache\n{DOUBLE}',
    dataclass='import dataclasses as d\n@d.dataclass\nclass P:\n    x: "int"\ndef double(x):\n    return 2 * P(x).x\n')
BODY = '    return 2 * x\n'
IN_PARTS = dict(
    helper_apart='A helper:\n```python\ndef twice(x):\n    return 2 * x\n```\nand\n'
                 '```python\ndef double(x):\n    return twice(x)\n```\n'
                 'Use:\n```python\nfrom my_module import double\nprint(double(2))\n```',
    body_and_session=f'```python\n{BODY}```\nExample:\n```python\n>>> double(2)\n4\n```',
    body_and_use=f'```python\n{BODY}```\nExample:\n```python\nprint(double(2))\n```',
    shell=f'```bash\npip install x\n```\n```python\n{DOUBLE}```\n```bash\npython double.py\n```',
    wrong_first=f'```python\ndef double(x):\n    return x\n```\nNo:\n```python\n{DOUBLE}```',
    in_a_list='1. Code:\n   ```python\n   def double(x):\n       return 2 * x\n   ```',
    tildes=f'~~~python\n{DOUBLE}~~~',
    one_line='```def double(x): return 2 * x```',
    title=f'```python title="a.py"\n{DOUBLE}```',
    crlf=f'```python\n{DOUBLE}```'.replace('\n', '\r\n'),
    body_without_its_indent='y = x\n    return 2 * y',
    body_tabs='\ty = x\n\treturn 2 * y',
    body_dedented='y = x\nreturn 2 * y',
    body_and_main=f'{BODY}\nif __name__ == "__main__":\n    {USE}\n',
    body_and_prints=f'{BODY}\nprint(double(3))\nassert double(1) == 3\n',
    body_and_prose=f'{BODY}\nThis function doubles x.',
    prose_first=f'From the docstring:\n\nfrom the start we see it.\n\n{DOUBLE}\nThat is it.')
WRONG = dict(
    other='def double(x):\n    return x\n',
    asserts='def double(x):\n    return x\nassert double(2) == 2\n',
    asks='def double(x):\n    return 2 * int(input())\n',
    ends='def double(x):\n    exit()\n',
    later=f'{DOUBLE}double = lambda x: x\n',
    in_main='if __name__ == "__main__":\n    def double(x):\n        return 2 * x\n',
    stub='def double(x):\n    ...\n',
    own_check='def double(x):\n    return x\ncheck = lambda f: None\n',
    method='class S:\n    def double(self, x):\n        return 2 * x\n',
    words='I cannot.')


def graded_as_code(reply:str) -> str:
    row = to_item(ROWS['humaneval'][0], BENCHMARKS['humaneval'])
    return run_code(_to_program(row, reply), seconds=2)['outcome']


@pytest.mark.parametrize('name', AROUND)
def test_the_function_alone_is_graded(name):
    assert graded_as_code(AROUND[name]) == graded_as_code(f'So:\n```python\n{AROUND[name]}```\nDone.') == 'right'


@pytest.mark.parametrize('name', IN_PARTS)
def test_replies_in_parts(name): assert graded_as_code(IN_PARTS[name]) == 'right'


@pytest.mark.parametrize('name', WRONG)
def test_what_does_not_define_the_function_right_is_wrong(name):
    assert {graded_as_code(WRONG[name]), graded_as_code(f'```python\n{WRONG[name]}```')} == {'wrong'}


def test_replies_that_no_parser_bears():
    row = to_item(ROWS['humaneval'][0], BENCHMARKS['humaneval'])
    start = 'def double(x):\n    return '
    deep = [start + '-'*100_000 + 'x', start + '('*3000 + 'x' + ')'*3000, '\x00', 'x = 1\n'*20_000 + '(', BODY]
    assert [g['code'] for g in _passes([row]*5, deep, allow_code=True)] == ['wrong']*4 + ['right']


HOSTILE = {'x = [0] * 10**9': 'wrong', 'while True: pass': 'timeout', 'import time; time.sleep(60)': 'timeout', 'import os; os._exit(0)': 'wrong', 'import sys; sys.exit(0)': 'wrong',
           'import os; os.fork()': 'wrong', 'import threading; threading.Thread(target=print).start()': 'wrong', 'import subprocess; subprocess.run(["true"])': 'wrong',
           'import socket; socket.create_connection(("192.0.2.1", 9), 2)': 'wrong', 'import resource; resource.setrlimit(resource.RLIMIT_NPROC, (9, 9))': 'wrong',
           'import os; assert os.environ.keys() <= {"PYTHONHASHSEED", "OPENBLAS_NUM_THREADS", "LC_CTYPE"}; assert os.listdir() == []': 'right', 'print("x" * 10**6)': 'right', 'input()': 'wrong'}


@pytest.mark.parametrize('program', HOSTILE)
def test_hostile_programs_are_stopped(program):
    assert run_code(program, seconds=1)['outcome'] == HOSTILE[program]


def test_files_stay_as_they_are(tmp_path):
    kept = tmp_path/'kept'
    kept.write_text('mine')
    result = run_code(f'open({str(kept)!r}, "w").write("yours")', seconds=1)
    if run_code('')['confined'] == 'namespaces':
        assert kept.read_text() == 'mine' and run_code(f'import os; os.remove({str(kept)!r})', seconds=1)['outcome'] == 'wrong' and kept.exists()
    assert result['outcome'] == 'wrong'


def test_confinement_cannot_be_undone(tmp_path):
    if run_code('')['confined'] != 'namespaces': pytest.skip('this system grants no namespaces')
    if Path(__file__).is_relative_to('/tmp'): pytest.skip('this checkout is in /tmp, which is out of sight in there')
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:   # in sight, unlike tmp_path
        os.chmod(folder, 0o777)
        undo = f"""import ctypes, os
libc = ctypes.CDLL(None)
for again in range(2):
    libc.mount(None, b'/', None, 0x20 | 0x1000, None)                            # remount, bind
    libc.umount2(b'/tmp', 2); libc.umount2(b'/proc', 2)
    libc.unshare(0x10000000 | 0x20000)
assert os.listdir('/tmp') == os.listdir('/proc') == []
open({folder + '/new'!r}, 'w')"""
        assert 'Read-only' in run_code(undo, seconds=1)['error'] and not os.listdir(folder)


def without_namespaces(monkeypatch):
    import inspect
    source = inspect.getsource
    monkeypatch.setattr(inspect, 'getsource', lambda f: source(f).replace("'unshare'", "'no_such_call'"))


def test_where_no_namespaces_are_granted(monkeypatch):
    without_namespaces(monkeypatch)
    for program, outcome in HOSTILE.items(): assert run_code(program, seconds=1)['outcome'] == outcome, program
    assert run_code('')['confined'] == 'limits'


@pytest.fixture(params=['tcp', 'unix', 'unix elsewhere', 'abstract'])
def listener(request, tmp_path):
    "A real one, and the program that calls it"
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as elsewhere:   # tmp_path is hidden from the program, this is not
        if request.param == 'abstract' and sys.platform != 'linux': pytest.skip('Linux only')
        where = {'unix': f'{tmp_path}/s', 'unix elsewhere': f'{elsewhere}/s', 'abstract': f'\0cgd-{os.getpid()}'}.get(request.param, ('127.0.0.1', 0))
        family = socket.AF_INET if request.param == 'tcp' else socket.AF_UNIX
        with socket.socket(family) as s:
            s.bind(where); s.listen(); s.settimeout(.3)
            if family == socket.AF_UNIX and request.param != 'abstract': os.chmod(where, 0o777); os.chmod(elsewhere, 0o755)
            yield s, f'import socket\ns = socket.socket({int(family)})\ns.settimeout(1)\ns.connect({s.getsockname()!r})\ns.sendall(b"out")'


def heard(listener) -> bytes:
    try: caller, _ = listener.accept()
    except TimeoutError: return b''
    with caller: return caller.recv(3)


@pytest.mark.parametrize('namespaces', [True, False])
def test_nothing_is_heard_of_a_program(listener, namespaces, monkeypatch):
    server, program = listener
    subprocess.run([sys.executable, '-c', program], check=True)
    assert heard(server) == b'out'                             # as it would be without confinement
    if not namespaces: without_namespaces(monkeypatch)
    result = run_code(program, seconds=2)
    assert heard(server) == b'' and result['outcome'] == 'wrong' and 'Error' in result['error']


FORGE = """
import os, sys
frame, words = sys._getframe(), {'right', 'namespaces '}
while frame:                                                  # whatever stands in the frames above, and in their code
    for found in (*frame.f_code.co_consts, *frame.f_globals.values(), *frame.f_locals.values()):
        if isinstance(found, (str, bytes)): words.add(found if isinstance(found, str) else found.decode(errors='replace'))
    frame = frame.f_back
text = ''.join(w + how for w in words for how in ('', 'namespaces ', ' '))
for descriptor in range(64):
    try: os.write(descriptor, text.encode())
    except OSError: pass
print(text)
os._exit(0)
"""


def test_success_is_not_to_be_forged(monkeypatch):
    assert run_code(FORGE)['outcome'] == 'wrong'
    assert run_code(FORGE.replace('os._exit(0)', 'raise SystemExit(0)'))['outcome'] == 'wrong'
    assert run_code(FORGE.replace('os._exit(0)', ''))['outcome'] == 'right'   # it may write what it likes, if it comes to its end


def test_what_it_sees_of_the_machine(tmp_path):
    if run_code('')['confined'] != 'namespaces': pytest.skip('this system grants no namespaces')
    (tmp_path/'mine').write_text('mine')
    seen = run_code('import os; raise ValueError([os.getuid() == 0, *(os.listdir(f) for f in ("/tmp", "/run", "/proc", "."))])')
    assert seen['error'] == 'ValueError: [False, [], [], [], []]'
    assert run_code(f'open({str(tmp_path/"mine")!r})')['error'].startswith('FileNotFoundError')


def test_other_processes_are_out_of_reach():
    if run_code('')['confined'] != 'namespaces': pytest.skip('this system grants no namespaces')
    assert run_code(f'import os; os.kill({os.getpid()}, 0)')['error'].startswith('ProcessLookupError')


# --- scores

def test_mc_scores_by_definition():
    import math
    item = dict(mc1={'a': 1, 'b': 0, 'c': 0}, mc2={'a': 1, 'b': 0, 'd': 1})
    p = dict(a=.1, b=.2, c=.05, d=.3)
    assert _mc_scores(item, {k: math.log(v) for k, v in p.items()}) == dict(mc1=0, mc2=pytest.approx(.4/.6))
    assert _mc_scores(item, dict(a=-1, b=-2, c=-3, d=-9**9)) == dict(mc1=1, mc2=pytest.approx(1/(1 + math.exp(-1))))


def test_scored_through_an_engine(tiny_model, tmp_path):
    items = Items(BENCHMARKS['truthfulqa'], [to_item(r, BENCHMARKS['truthfulqa']) for r in ROWS['truthfulqa']])
    with open_engine(f'hf:{tiny_model}', dtype='float32', max_model_len=128, in_process=True) as engine, Store(tmp_path/'s.sqlite') as store:
        first = score_items(engine, items, store)
        assert first == score_items(engine, items, store) and [s['requests'] for s in sessions(store)] == [3]
    assert first[0]['mc1'] in (0, 1) and 0 < first[0]['mc2'] < 1
