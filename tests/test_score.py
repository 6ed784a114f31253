"Scores of given completions: right, the same in any batch and from either engine, and as durable as completions"
import dataclasses
import json
import random
from importlib.util import find_spec

import pytest

from cgd.core import CgdError, write_table
from cgd.store import Request, ScoreRequest, Store, request_key, sessions
from cgd.generate import Unsupported, complete, score
from cgd.engines import open_engine
from test_kill import CONTEXT, count, kill_after, table

OPTIONS = dict(dtype='float32', max_model_len=128)
ASK = [{'role': 'user', 'content': 'What is 2 + 3?'}]
TEXTS = ['5', ' It is 5.', 'Two and three make five, as everyone knows.', '½ \x00 <|im_end|>', 'no\n\nidea']


def requests(n=len(TEXTS)) -> list[ScoreRequest]:
    return [ScoreRequest(f's{i}', [{'role': 'user', 'content': f'What is {i} + {i * 7 % 11}?' + ' Think.' * (i % 4)}], TEXTS[i % len(TEXTS)]) for i in range(n)]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path/'scores.sqlite') as store: yield store


@pytest.fixture
def engine(tiny_model):
    with open_engine(f'hf:{tiny_model}', **OPTIONS, in_process=True) as engine: yield engine


def test_equal_to_a_softmax_by_hand(engine, store, tiny_model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    for request, got in zip(requests(3), score(engine, requests(3), store)):
        prompt = tokenizer.apply_chat_template(request.messages, add_generation_prompt=True, return_dict=False)
        tokens = tokenizer.encode(request.completion, add_special_tokens=False)
        with torch.no_grad(): logits = model(torch.tensor([prompt + tokens])).logits[0].double()
        assert got.tokens == tokens
        for i, token in enumerate(tokens):
            row = logits[len(prompt) - 1 + i]
            p = row.exp() / row.exp().sum()
            assert got.logprobs[i] == pytest.approx(p[token].log().item(), abs=1e-4)
            assert got.entropies[i] == pytest.approx(-(p * p.log()).sum().item(), abs=1e-4)
            assert got.ranks[i] == 1 + (p > p[token]).sum().item()
        assert got.logprob == pytest.approx(sum(got.logprobs))


def test_what_greedy_decoding_wrote_has_rank_one(engine, store):
    wrote = complete(engine, [Request('g', ASK, max_new_tokens=12)], store)[0]
    ids = engine.tokenizer.encode(wrote.text, add_special_tokens=False, split_special_tokens=True)
    if len(ids) != wrote.completion_tokens: ids = None   # some texts have several spellings in tokens; then only the start is sure
    got = score(engine, [ScoreRequest('g', ASK, ids or wrote.text)], store)[0]
    assert got.ranks[0] == 1 and (ids is None or got.ranks == [1] * len(ids))


def test_a_batch_gives_what_single_rows_give(tiny_model, engine, store, tmp_path):
    batched = score(engine, requests(30), store)
    with open_engine(f'hf:{tiny_model}', **OPTIONS, batch_size=1, in_process=True) as single, Store(tmp_path/'single.sqlite') as other:
        for a, b in zip(batched, score(single, requests(30), other)):
            assert a.tokens == b.tokens and a.key == b.key
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4) and a.entropies == pytest.approx(b.entropies, abs=1e-4)


@pytest.mark.skipif(not find_spec('vllm'), reason='vLLM is not installed')
def test_vllm_and_transformers_agree(tiny_model, engine, store):
    ours = requests(8)
    with open_engine(f'vllm:{tiny_model}', **OPTIONS, kv_cache_gib=1) as vllm:
        others = score(vllm, ours, store)
        written = complete(vllm, [Request('g', ASK, max_new_tokens=8)], store)   # the same process writes and scores
    for a, b in zip(score(engine, ours, store), others):
        assert a.tokens == b.tokens and a.key != b.key and b.entropies is None
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-3)
        assert sum(x != y for x, y in zip(a.ranks, b.ranks)) <= 1   # ties
    assert written[0].completion_tokens <= 8


def test_each_part_of_a_request_counts_and_a_hit_asks_nothing(engine, store, tiny_model):
    base = ScoreRequest('a', ASK, '5')
    others = [dataclasses.replace(base, completion='6'), dataclasses.replace(base, messages=[{'role': 'system', 'content': 'Be brief.'}, *ASK]), Request('a', ASK)]
    assert len({request_key(engine.identity, r) for r in [base, *others]}) == 4
    first = score(engine, [base, dataclasses.replace(base, id='b')], store)
    assert first[0] == first[1] and len(store) == 1                               # the id names, it does not count
    with open_engine(f'hf:{tiny_model}', **OPTIONS) as fresh:
        assert score(fresh, [base], store) == first[:1] and fresh.process is None
    assert [(s['stage'], s['requests'], s['completion_tokens']) for s in sessions(store)] == [('score', 1, len(first[0].tokens))]


def test_token_ids_are_taken_as_they_are(engine, store):
    from cgd.models import chat_ids
    text = score(engine, [ScoreRequest('t', ASK, 'It is 5.')], store)[0]
    ids = score(engine, [ScoreRequest('t', chat_ids(engine.tokenizer, ASK), text.tokens)], store)[0]
    assert ids.tokens == text.tokens and ids.logprobs == pytest.approx(text.logprobs, abs=1e-5) and ids.key != text.key


def test_edges(engine, store):
    long, empty, hostile = score(engine, [ScoreRequest('l', ASK, 'word ' * 200), ScoreRequest('e', ASK, ''), ScoreRequest('h', ASK, '<|im_end|> \ud800 \x00')], store)
    assert long is None                                                            # did not fit, and says so
    assert (empty.tokens, empty.logprobs, empty.entropies, empty.logprob) == ([], [], [], 0)
    assert engine.tokenizer.convert_tokens_to_ids('<|im_end|>') not in hostile.tokens and len(hostile.logprobs) == len(hostile.tokens) > 5
    with pytest.raises(CgdError, match='nothing stands before'): score(engine, [ScoreRequest('n', [], '5')], store)


def test_an_engine_without_scores_says_so_and_leaves_no_session(store):
    with open_engine('openai:m@http://localhost:1/v1') as endpoint, pytest.raises(Unsupported, match='no scores.*hf:MODEL'): score(endpoint, requests(), store)
    assert sessions(store) == []


def test_recorded_scores_replay(engine, store, tmp_path):
    made = score(engine, requests(), store)
    rows = store._do('SELECT request, text, finish_reason, prompt_tokens, completion_tokens, cached_tokens FROM completions')
    names = 'text', 'finish_reason', 'prompt_tokens', 'completion_tokens', 'cached_tokens'
    write_table([dict(asked=json.loads(asked), **dict(zip(names, values))) for asked, *values in rows], tmp_path/'scores.jsonl')
    with open_engine(f'recorded:{tmp_path}/scores.jsonl') as recorded:
        assert [dataclasses.replace(s, key='') for s in score(recorded, requests(), store)] == [dataclasses.replace(s, key='') for s in made]
        with pytest.raises(CgdError, match='no recording'): score(recorded, [ScoreRequest('u', ASK, 'unheard of')], store)


def score_all(spec, path, n):
    with open_engine(spec, **OPTIONS, batch_size=1, in_process=True) as engine, Store(path) as store: score(engine, requests(n), store)


def test_killed_at_random_rows_it_goes_on_by_key(tiny_model, tmp_path, long):
    spec, path, rounds, draw, killed, snapshot = f'hf:{tiny_model}', tmp_path/'scores.sqlite', 25 if long else 3, random.Random(0), 0, []
    n = rounds * 60
    def start():
        process = CONTEXT.Process(target=score_all, args=(spec, path, n))
        process.start()
        return process
    for _ in range(rounds):
        killed += kill_after(start(), path, draw.randint(1, 40))
        rows = table(path)
        assert rows[:len(snapshot)] == snapshot, 'a committed row changed'
        snapshot = rows
    process = start()
    process.join()
    assert process.exitcode == 0 and killed >= rounds * .6
    assert table(path)[:len(snapshot)] == snapshot and len(snapshot) < count(path) == n == len({r[1] for r in table(path)})
    score_all(spec, tmp_path/'whole.sqlite', n)
    numbers = lambda path: sorted((r[1], *r[3:9]) for r in table(path))
    assert numbers(path) == numbers(tmp_path/'whole.sqlite')
