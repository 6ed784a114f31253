"Steering: the direction is what the recipe says, and it is added in its layer, at paragraph ends, while writing, and nowhere else; texts are kept under it"
import re, shutil
from pathlib import Path

import numpy as np
import pytest

import cgd
from cgd.core import CgdError
from cgd.engines import open_engine
from cgd.generate import complete, score
from cgd.models import load_tokenizer
from cgd.plan import Plan, RunConfig, _settings_that_count
from cgd.steering import save_direction, steering_vector
from cgd.store import Request, ScoreRequest, Store, request_key
from cgd.teacher import TeacherConfig, open_teacher

WORDS = ['\n\n', ' step', ' wait']
IN_PROCESS = dict(in_process=True, dtype='float32')


def writer(folder, base, layers=2, mixes=True) -> str:
    "A model that writes nothing but blank lines, steps and waits, by its context; or by the last token, if its layers do nothing"
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    config = LlamaConfig.from_pretrained(base, num_hidden_layers=layers, tie_word_embeddings=False)
    lm, ids = LlamaForCausalLM(config), [tokenizer.convert_tokens_to_ids(t) for t in ('ĊĊ', 'Ġstep', 'Ġwait')]
    with torch.no_grad():
        head = torch.zeros_like(lm.lm_head.weight)
        if mixes:
            a, b = torch.randn(2, head.shape[1])
            head[ids] = torch.stack([a, -a, b])   # one of the first two is above the zero of all others
        else:
            for layer in lm.model.layers: layer.self_attn.o_proj.weight.zero_(), layer.mlp.down_proj.weight.zero_()
            blank, step, wait = (lm.model.embed_tokens.weight[i] for i in ids)
            head[ids[0]], head[ids[1]], head[ids[2]] = step + wait, blank, lm.model.embed_tokens.weight[7]   # after token 7 it waits
        lm.lm_head.weight.copy_(head)
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope='module')
def blank_step_wait(tiny_student):
    return [load_tokenizer(tiny_student).convert_tokens_to_ids(t) for t in ('ĊĊ', 'Ġstep', 'Ġwait')]


@pytest.fixture(scope='module')
def plain(tiny_student, tmp_path_factory):
    "It writes a step after a blank line, and a blank line after a step, whatever stood before"
    return open_engine(f'hf:{writer(tmp_path_factory.mktemp("last"), tiny_student, mixes=False)}', **IN_PROCESS)


@pytest.fixture(scope='module')
def to_wait(plain, tmp_path_factory):
    "The direction, in the second layer, from a blank line to what is followed by a wait"
    plain._load_once()
    words, blank = plain.lm.get_input_embeddings().weight.detach().numpy(), plain.tokenizer.convert_tokens_to_ids('ĊĊ')
    return str(save_direction(tmp_path_factory.mktemp('direction')/'to_wait.safetensors', words[7] - words[blank], 1, plain))


def steered(engine, file, strength=1., **how):
    return open_engine(engine.spec, steer=str(file), steer_strength=strength, **IN_PROCESS | how)


def say(engine, store, prompts, n=6): return [c.text for c in complete(engine, [Request(str(i), p, max_new_tokens=n) for i, p in enumerate(prompts)], store)]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path/'store.sqlite') as store: yield store


def test_it_is_added_while_writing_and_the_prompt_is_read_as_ever(plain, to_wait, blank_step_wait, store):
    "Trap: a prompt that ends with a blank line is steered"
    blank, step, wait = blank_step_wait
    prompts = [[step, step, step], [step, blank], [wait, blank, blank]]
    assert say(plain, store, prompts) == ['\n\n step'*3, ' step\n\n'*3, ' step\n\n'*3]
    assert say(steered(plain, to_wait), store, prompts) == ['\n\n wait'*3, ' step\n\n' + ' wait\n\n'*2, ' step\n\n' + ' wait\n\n'*2]
    assert say(steered(plain, to_wait, 0.), store, prompts) == say(plain, store, prompts)


def test_the_store_keeps_texts_apart(plain, to_wait, blank_step_wait, store, tmp_path):
    "Trap: an identity without the direction gives back unsteered texts"
    request = Request('r', [blank_step_wait[1]], max_new_tokens=4)
    copy = shutil.copy(to_wait, tmp_path/'elsewhere.safetensors')
    other = save_direction(tmp_path/'other.safetensors', np.ones(64), 1, plain)
    key = {name: request_key(e.identity, request) for name, e in dict(plain=plain, one=steered(plain, to_wait), two=steered(plain, to_wait, 2.), copy=steered(plain, copy), other=steered(plain, other)).items()}
    assert len({*key.values()}) == 4 and key['one'] == key['copy']
    assert say(plain, store, [[blank_step_wait[1]]]) != say(steered(plain, to_wait), store, [[blank_step_wait[1]]])


def test_rows_that_end_no_paragraph_are_left_alone(plain, to_wait, blank_step_wait, store):
    "Counted at the layer: of each row and step, whether what it reads is other than the token's own embedding. Traps: all rows; the layer before or after"
    blank, step, _ = blank_step_wait
    engine, read = steered(plain, to_wait), {0: [], 1: []}
    engine._load_once()
    hooks = [layer.input_layernorm.register_forward_pre_hook(lambda module, args, i=i: read[i].append(args[0][:, -1])) for i, layer in enumerate(engine.lm.model.layers)]
    given = []
    hooks.append(engine.lm.get_input_embeddings().register_forward_pre_hook(lambda module, args: given.append(args[0][:, -1])))
    say(engine, store, [[step, step], [step, blank]], 7)
    for hook in hooks: hook.remove()
    words = engine.lm.get_input_embeddings().weight.detach()
    moved = {i: [(rows - words[ids]).abs().amax(-1) > 1e-6 for rows, ids in zip(read[i], given)] for i in read}
    assert len(given) >= 7 and not any(rows.any() for rows in moved[0])
    assert [rows.tolist() for rows in moved[1]] == [[False]*2] + [[i == blank for i in ids.tolist()] for ids in given[1:]]
    assert sum(rows.sum().item() for rows in moved[1]) >= 6
    assert all((rows[moved[1][t]] - words[given[t][moved[1][t]]] - (words[7] - words[blank])).abs().max() < 1e-5 for t, rows in enumerate(read[1]) if moved[1][t].any())


def test_a_model_without_a_cache_is_refused(plain, to_wait, blank_step_wait, store, monkeypatch):
    from cgd import engines
    settings = engines._hf_settings
    def without_cache(*given):
        how = settings(*given)
        how.use_cache = False
        return how
    monkeypatch.setattr(engines, '_hf_settings', without_cache)
    with pytest.raises(CgdError, match='keeps no cache'): say(steered(plain, to_wait), store, [[blank_step_wait[1]]*2])


@pytest.fixture(scope='module')
def mixing(tiny_student, tmp_path_factory):
    "A model whose attention counts, and a direction at random"
    engine = open_engine(f'hf:{writer(tmp_path_factory.mktemp("mixes"), tiny_student)}', **IN_PROCESS)
    noise = 30*np.random.default_rng(0).normal(size=64)
    return engine, save_direction(tmp_path_factory.mktemp('noise')/'noise.safetensors', noise, 1, engine)


PROMPTS = ['Go on.', 'Write about a step, and another one, and wait.', 'Hello', 'One step.\n\nTwo steps.\n\n', 'Wait a bit, then go on as before.']


def test_a_batch_padded_on_the_left_says_what_single_rows_say(mixing, tmp_path):
    engine, noise = mixing
    prompts = [[dict(role='user', content=p)] for p in PROMPTS]
    with Store(tmp_path/'a.sqlite') as a, Store(tmp_path/'b.sqlite') as b:
        together, alone = say(steered(engine, noise), a, prompts, 24), say(steered(engine, noise, batch_size=1), b, prompts, 24)
        assert together == alone and together != say(engine, a, prompts, 24) and all('\n\n' in t for t in together)


def test_scores_are_those_of_the_text_as_it_is_written(mixing, blank_step_wait, store):
    "What was written greedily has the first rank everywhere, read by the same engine and not by the plain one; in a batch as alone"
    engine, noise = mixing
    prompts = [[dict(role='user', content=p)] for p in PROMPTS]
    name = dict(zip(WORDS, blank_step_wait))
    texts = [[name[w] for w in re.findall('|'.join(WORDS), text)] for text in say(steered(engine, noise), store, prompts, 24)]
    texts = [ids[:20 - 3*i] for i, ids in enumerate(texts)]
    asked = [ScoreRequest(str(i), p, ids) for i, (p, ids) in enumerate(zip(prompts, texts))]
    with_it, without = (score(e, asked, store) for e in (steered(engine, noise), engine))
    assert {r for s in with_it for r in s.ranks} == {1} and max(r for s in without for r in s.ranks) > 1
    with Store(store.path.parent/'alone.sqlite') as other: alone = score(steered(engine, noise, batch_size=1), asked, other)
    assert all(a.logprobs == pytest.approx(b.logprobs, abs=1e-4) for a, b in zip(with_it, alone))


TEXT = 'First.\n\nWait, is it?\n\nThen this.\n\n\n\nAnother way.\n\nAnd that.\n\n- Last'
STARTS = {'Wait, is it?': 1, 'Then this.': 0, 'Another way.': 1, 'And that.': 0, '- Last': 0}   # 1: a detour


def test_the_direction_is_what_the_recipe_says(mixing, tmp_path):
    "By hand, from transformers' own hidden states, at the token whose text ends where the thought begins. Traps: the sign; the state at the thought's end; the output of the layer"
    import torch
    from safetensors.torch import load_file
    engine, _ = mixing
    asked = [dict(role='user', content='Go.')]
    n = steering_vector(engine, [ScoreRequest('a', asked, TEXT), ScoreRequest('b', asked, TEXT.replace('First', 'Second thing'))], 1, tmp_path/'d.safetensors')
    assert n == dict(execution=6, reflection=2, transition=2, too_long=0)
    means = {0: [], 1: []}
    for text in (TEXT, TEXT.replace('First', 'Second thing')):
        before = engine.tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        full = engine.tokenizer(before + text, return_offsets_mapping=True, add_special_tokens=False)
        with torch.inference_mode(): states = engine.lm(torch.tensor([full['input_ids']]), output_hidden_states=True).hidden_states[1][0]
        for thought, detour in STARTS.items():
            begins = len(before) + text.index(thought)
            means[detour].append(states[max(i for i, (_, end) in enumerate(full['offset_mapping']) if end <= begins)])
    expected = torch.stack(means[0]).mean(0) - torch.stack(means[1]).mean(0)
    torch.testing.assert_close(load_file(tmp_path/'d.safetensors')['direction'], expected, atol=1e-4, rtol=1e-4)


def test_a_trace_that_is_too_long_is_counted(mixing, tmp_path):
    engine, _ = mixing
    asked = [dict(role='user', content='Go.')]
    assert steering_vector(engine, [ScoreRequest('a', asked, TEXT), ScoreRequest('b', asked, TEXT*200)], 0, tmp_path/'d.safetensors')['too_long'] == 1


def test_a_direction_for_other_weights_is_refused(plain, to_wait, mixing, tiny_student, tmp_path):
    "Traps: another number type; other weights of the same shape, another number of layers"
    deeper = writer(tmp_path/'deeper', tiny_student, layers=3)
    for folder in (mixing[0].folder, deeper):
        with pytest.raises(CgdError, match=r'made for .* \(2 layers\), and the weights of .* are others'): open_engine(f'hf:{folder}', steer=to_wait, dtype='float32')
    with pytest.raises(CgdError, match='made in float32, and hf:.* runs in bfloat16; set dtype to float32'): open_engine(plain.spec, steer=to_wait, dtype='bfloat16')
    with pytest.raises(CgdError, match='cannot take the place|weights of .* are others'): steered(plain, to_wait).set_model(mixing[0].folder)
    (tmp_path/'text.safetensors').write_text('no direction')
    for file in (tmp_path/'text.safetensors', tmp_path/'none.safetensors', Path(plain.folder)/'model.safetensors'):
        with pytest.raises(CgdError, match='no direction to be read'): open_engine(plain.spec, steer=str(file), dtype='float32')
    with pytest.raises(CgdError, match='steer_strength'): steered(plain, to_wait, float('nan'))


def test_adapters_and_other_engines_are_refused(plain, to_wait, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    get_peft_model(AutoModelForCausalLM.from_pretrained(plain.folder), LoraConfig(r=1, target_modules=['q_proj'])).save_pretrained(tmp_path/'adapter')
    with pytest.raises(CgdError, match='merge the adapter'): steered(plain, to_wait, adapter=str(tmp_path/'adapter'))
    for spec in (f'vllm:{plain.folder}', 'openai:m@http://localhost:1/v1', 'recorded:none.jsonl'):
        with pytest.raises(CgdError, match='steer: .*; use hf:'): open_engine(spec, steer=to_wait)


def test_a_run_steers_its_teacher_and_not_its_students(plain, to_wait):
    with open_teacher(plain.spec, TeacherConfig(), steer=to_wait, dtype='float32') as teacher: assert teacher.engine.identity['steer']
    cfg = RunConfig(teacher=plain.spec, teacher_engine=dict(steer=to_wait, dtype='float32'))
    assert Plan(cfg).teachers[0].options['steer'] == to_wait and _settings_that_count(Plan(cfg))['teacher_engine.steer'] == to_wait


def test_the_library_asks_a_steered_model_in_a_process_of_its_own(mixing, tmp_path):
    engine, noise = mixing
    rows = [dict(problem_id=str(i), prompt=p, reference='4') for i, p in enumerate(PROMPTS[:2])]
    how = dict(dtype='float32', steer=str(noise))
    found = cgd.evaluate(engine.spec, rows, store=tmp_path/'store.sqlite', engine=how, template='{prompt}', max_new_tokens=16)
    with Store(tmp_path/'other.sqlite') as store:
        assert [r['completion'] for r in found.records] == say(steered(engine, noise), store, [[dict(role='user', content=p)] for p in PROMPTS[:2]], 16)


def test_the_same_weights_under_another_name_are_padded_as_before(mixing, tmp_path):
    "Its tokenizer is a new one, which pads on the right by default"
    engine = open_engine(mixing[0].spec, **IN_PROCESS)
    prompts = [[dict(role='user', content=p)] for p in PROMPTS]
    with Store(tmp_path/'a.sqlite') as a, Store(tmp_path/'b.sqlite') as b:
        alone = [say(engine, a, [p], 8)[0] for p in prompts]
        engine.set_model(shutil.copytree(engine.folder, tmp_path/'copy'))
        assert say(engine, b, prompts, 8) == alone
