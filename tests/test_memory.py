"What a model knows by heart: what is asked of a real engine, what is left out, and what the runner refuses"
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cgd.core import CgdError
from cgd.engines import open_engine
from cgd.generate import Engine, EngineConfig
from cgd.memory import _cut, completion_probe, probe_table, unseen_problems
from cgd.models import load_tokenizer
from cgd.store import Completion, Store

ROOT = Path(__file__).parent.parent
TEXTS = dict(rhyme='One two three four five, once I caught a fish alive; six seven eight nine ten, then I let it go again.',
             code='def add(a, b):\n    """Add two numbers, whole or not, and give back the sum of both of them."""\n',
             latex='Let $f(x) = \\frac{1}{x^2 + 1}$ for all real $x$.  What is\n\n$$\\int_0^1 f(x)\\,dx,$$ and why?')
PROBLEMS = [dict(problem_id=id, prompt=text) for id, text in TEXTS.items()]


class Reciter(Engine):
    "Knows texts by heart: it continues their beginnings with the tokens that follow, and anything else with nonsense"
    gives_scores, version, folder, identity = True, '1', 'smollm2', dict(kind='reciter')
    def __init__(self, texts):
        super().__init__('reciter:', 'reciter', EngineConfig())
        self.texts, self.tokenizer = texts, load_tokenizer('smollm2')

    def run(self, missing):
        for key, request in missing.items():
            shown = self.tokenizer.decode(request.messages)
            rest = next((t[len(shown):] for t in self.texts if t.startswith(shown)), ' of'*99)
            ids = self.tokenizer(rest + ' And so on, and on.')['input_ids'][:request.max_new_tokens]
            yield Completion(self.tokenizer.decode(ids), 'length', len(request.messages), len(ids), key=key)


def test_what_is_known_by_heart_is_found_and_nothing_else(tmp_path):
    with Store(tmp_path/'s.sqlite') as store:
        rows = completion_probe(Reciter(list(TEXTS.values())[:2]), PROBLEMS, store)
        assert [(r['share'], r['exact']) for r in rows] == [(1, True), (1, True), (0, False)]
        line, = probe_table(dict(mine=rows))
    assert (line['n'], line['share'], line['exact']) == (3, 2/3, 2/3) and line['exact_low'] < 2/3 < line['exact_high']
    assert line['words'] == sum(r['words'] for r in rows) / 3


@pytest.mark.parametrize('share', [.1, .4, .8, .95])
def test_any_share_can_be_shown(tmp_path, share):
    with Store(tmp_path/'s.sqlite') as store:
        rows = completion_probe(Reciter(TEXTS.values()), PROBLEMS, store, share)
    assert all(r['exact'] and r['words'] == max(1, len(TEXTS[r['id']].split()) - round(share * len(TEXTS[r['id']].split()))) for r in rows)


def test_a_real_engine_is_asked_once_and_no_text_is_shown_beyond_the_cut(tmp_path, tiny_model):
    problems = [*PROBLEMS, *unseen_problems(3), dict(problem_id='short', prompt='One two three.'), dict(problem_id='long', prompt='word ' * 600),
                dict(problem_id='to the brim', prompt='word ' * 300)]   # the last one fits, and its rest does not
    with Store(tmp_path/'s.sqlite') as store, open_engine(f'hf:{tiny_model}', dtype='float32', in_process=True) as engine:
        rows = completion_probe(engine, problems, store)
        asked = len(store)
        assert completion_probe(engine, problems, store) == rows and len(store) == asked == 8
        shown = [engine.tokenizer.decode(json.loads(request)['messages'], skip_special_tokens=True) for request, in store._do('SELECT request FROM completions')]
    assert sorted(shown) == sorted(_cut(p['prompt'], .6)[0] for p in problems if p['problem_id'] != 'short')
    assert [r['left_out'] for r in rows] == [''] * 6 + ['short', 'too_long', 'too_long']
    assert all(0 <= r['share'] <= 1 for r in rows[:6]) and {r['share'] for r in rows[6:]} == {None}
    line, = probe_table(dict(all=rows))
    assert (line['n'], line['left_out']) == (6, 3)


def test_nothing_but_short_problems_is_a_line_without_numbers(tmp_path):
    with Store(tmp_path/'s.sqlite') as store:
        line, = probe_table(dict(short=completion_probe(Reciter([]), [dict(problem_id='a', prompt='What is 1 + 1?')], store)))
    assert (line['n'], line['left_out'], line['words'], line['share'], line['exact_high']) == (0, 1, None, None, None)


def test_the_runner_says_what_it_needs():
    def said(**env):
        command = [sys.executable, ROOT/'benchmarks'/'memory.py', '--only', 'gsm9k']
        clean = {k: v for k, v in os.environ.items() if k != 'CGD_BENCH_DIR'}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=clean | env)
        assert done.returncode == 2
        return done.stderr
    assert '--only: gsm9k is not in CGD_BENCH_DIR; there are: none' in said()
    assert 'CGD_BENCH_DIR: /nowhere is no folder' in said(CGD_BENCH_DIR='/nowhere')


def test_refusals(tmp_path):
    (tmp_path/'empty.jsonl').write_text('')
    with Store(tmp_path/'s.sqlite') as store:
        with pytest.raises(CgdError, match='takes chats only.*use hf:MODEL or vllm:MODEL'):
            completion_probe(open_engine('openai:gpt@http://127.0.0.1:9/v1'), PROBLEMS, store)
        with pytest.raises(CgdError, match='live: name the model'):
            completion_probe(open_engine(f'recorded:{tmp_path/"empty.jsonl"}'), PROBLEMS, store)
        for share in (0, 1, 60):
            with pytest.raises(CgdError, match=f'share: .* got {share}'): completion_probe(Reciter([]), PROBLEMS, store, share)
        assert len(store) == 0
