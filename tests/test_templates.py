"Pairs and prompts as the chat templates of other model families have them: one begin-of-text at most, loss on what follows the prompt, and nothing that a template would not write"
import datetime
import json
import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from cgd.core import CgdError
from cgd.data import load_problems
from cgd.models import (
    DATED, _accepted, chat_facts, chat_ids, end_of_turn, find_model, load_tokenizer, _score_ids, _set_thinking,
    _split_thoughts, turn_ids)
from cgd.store import Request, SampleConfig, ScoreRequest, Store
from cgd.generate import complete
from cgd.engines import open_engine
from cgd.rollouts import draft
from cgd.teacher import critique, direct, open_teacher, refine, rewrite
from cgd.masks import render
from cgd.methods import METHODS
from cgd.views import build

PAIRED = [name for name, method in METHODS.items() if method.learns and not method.then and not method.prefers]   # one answer

RECORDINGS = Path(__file__).parent.parent/'nbs'/'recordings'
SHIPPED = Path(find_spec('trl').submodule_search_locations[0])/'chat_templates'
MISTRAL = ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
           "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}")   # of the Instruct models; TRL ships none
FAMILIES = {  # template, begin-of-text or None, end of a turn, the template's other tokens, and those of them that are not special
    'llama3':  ('llama3.jinja', '<|begin_of_text|>', '<|eot_id|>', ['<|start_header_id|>', '<|end_header_id|>'], []),
    'qwen2_5': ('qwen2_5.jinja', None, '<|im_end|>', ['<|im_start|>', '<|endoftext|>'], []),
    'qwen3':   ('qwen3.jinja', None, '<|im_end|>', ['<|im_start|>', '<|endoftext|>'], ['<think>', '</think>']),
    'gemma3':  ('gemma3.jinja', '<bos>', '<end_of_turn>', ['<start_of_turn>', '<eos>'], []),
    'mistral': (MISTRAL, '<s>', '</s>', ['[INST]', '[/INST]'], []),
}


def tokenizer_of(family):
    "The embedded student's vocabulary with a family's template and tokens; like the real ones, it puts a begin-of-text before whatever it encodes by default"
    from tokenizers import AddedToken
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer
    template, bos, end, special, plain = FAMILIES[family]
    tokenizer = AutoTokenizer.from_pretrained(find_model('smollm2'))
    tokenizer.add_special_tokens(dict(additional_special_tokens=[t for t in (bos, end, *special) if t]))
    tokenizer.add_tokens([AddedToken(t, special=False) for t in plain])
    tokenizer.bos_token, tokenizer.eos_token = bos, end
    tokenizer.chat_template = (SHIPPED/template).read_text() if template.endswith('.jinja') else template
    if bos: tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f'{bos} $A', special_tokens=[(bos, tokenizer.convert_tokens_to_ids(bos))])
    return tokenizer


@pytest.fixture(scope='module', params=FAMILIES)
def family(request): return request.param, tokenizer_of(request.param)


@pytest.fixture(scope='module')
def traces(tmp_path_factory):
    with open_engine(f'recorded:{RECORDINGS/"drafts.jsonl"}') as student, Store(tmp_path_factory.mktemp('templates')/'store.sqlite') as store:
        drafts = draft(load_problems('train', limit=3).rows, student, store, SampleConfig())
    with open_teacher('oracle') as teacher:
        taught = refine(critique(direct(drafts, teacher), teacher), teacher)
        rows = rewrite(rewrite(taught, teacher, 'short'), teacher, 'direct_short')
    return [r | dict(critique_grade='right', retry=r['refinement'], retry_grade='right', flagged=r['draft']) for r in rows]


def made(view, traces):
    "Pairs of a view; for one of the student's own refinements, as if it had been the teacher"
    return build([r | dict(teacher=r['student']) for r in traces] if METHODS[view].own else traces, replace(METHODS[view], right_share=None)).rows


def learnt(tokenizer, ids, mask): return tokenizer.decode([i for i, m in zip(ids, mask) if m], clean_up_tokenization_spaces=False)


def whole(tokenizer, pair): return tokenizer.apply_chat_template(pair['prompt'] + pair['completion'], tokenize=False)


@pytest.mark.parametrize('view', PAIRED)
def test_view(view, family, traces):
    name, tokenizer = family
    bos, end = FAMILIES[name][1:3]
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids(end)
    for pair in made(view, traces):
        ids, mask = render(tokenizer, pair)
        assert learnt(tokenizer, ids, mask).endswith(pair['completion'][0]['content'] + end)
        assert whole(tokenizer, pair).startswith(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        assert mask == sorted(mask) and ids[:mask.index(1)] == tokenizer.apply_chat_template(pair['prompt'], add_generation_prompt=True, return_dict=False)
        if bos: assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize('view', PAIRED)
def test_markers_in_texts_stay_text(view, family, traces):
    "Texts that hold every token of the template begin no turn and end none"
    name, tokenizer = family
    _, bos, end, special, plain = FAMILIES[name]
    markers = [t for t in (bos, end, *special) if t]
    odd = '\n'.join(['', *markers, *plain]) + ' Or 5?'
    forged = [r | {c: f'It is \\boxed{{4}}. {odd} {i}' for c in ('prompt', 'solution', 'direct', 'draft', 'critique', 'refinement', 'retry')}
                | {c: f'{odd} {i}' for c in ('short', 'direct_short')} | dict(direct=f'{odd}\n{" ".join(markers)} 2 + 2\nIt is \\boxed{{4}}. {i}') for i, r in enumerate(traces)]   # in a step after thoughts, too
    for honest, pair in zip(made(view, traces), made(view, forged), strict=True):
        (sound, _), (ids, mask) = render(tokenizer, honest), render(tokenizer, pair)
        assert learnt(tokenizer, ids, mask).endswith(pair['completion'][0]['content'] + end)
        for marker in tokenizer.convert_tokens_to_ids(markers): assert ids.count(marker) == sound.count(marker)


# All templates that TRL ships, with an answer to one question, without thoughts and with

ASKED, PLAIN, THOUGHT = [dict(role='user', content='What is 2 + 2?')], 'It is 4.', '<think>\nTwo and two.\n</think>\n\nIt is 4.'
SPECIAL = re.compile(r'<\|[^|>\s]+\|>|<｜[^｜>\s]+｜>|<(?:start|end)_of_turn>|<\|?turn\|?>|<\|?channel\|?>|\[gMASK\]|<sop>|\[/?INST\]')
SETTINGS = [('auto', PLAIN), ('auto', THOUGHT), ('off', PLAIN), ('off', THOUGHT), ('on', PLAIN), ('on', THOUGHT)]


@pytest.fixture(scope='module')
def words():
    "The embedded student's tokenizer, cutting text up as Qwen's does, with all special tokens of all these templates"
    from tokenizers import Regex, pre_tokenizers
    tokenizer = load_tokenizer('smollm2')
    cut = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(cut), 'isolated'), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    special = {t for f in SHIPPED.glob('*.jinja') for t in SPECIAL.findall(f.read_text())} | {'<|user|>', '<|assistant|>', '<bos>', '<eos>'}
    tokenizer.add_special_tokens(dict(additional_special_tokens=sorted(special)))
    tokenizer.add_tokens(['<think>', '</think>'])
    tokenizer.bos_token, tokenizer.eos_token = '<bos>', '<eos>'
    return tokenizer


def speaking(words, template, thinking='auto'):
    "The tokenizer with a template: its text, or the name of one that TRL ships"
    words.chat_template = template if '{' in template else (SHIPPED/f'{template}.jinja').read_text()
    return _set_thinking(words, thinking)


def as_model(words, template, folder):
    "A folder with the embedded student's config, and this tokenizer and template: enough to open an engine"
    speaking(words, template).save_pretrained(folder)
    config = json.loads(Path(find_model('smollm2'), 'config.json').read_text())
    Path(folder, 'config.json').write_text(json.dumps(config | dict(eos_token_id=words.eos_token_id)))
    return str(folder)


def conversations(tokenizer, target):
    "What the template makes of the whole conversation: as such, and going on"
    thoughts, answer = _split_thoughts(target)
    fields = dict(content=answer, reasoning_content=thoughts, reasoning=thoughts, thinking=thoughts) if thoughts else dict(content=answer)
    for turn in (fields, dict(content=target)):
        for more in ([], ASKED): yield tokenizer.apply_chat_template([*ASKED, dict(role='assistant', **turn), *more], tokenize=False, **DATED)


@pytest.mark.parametrize('name', sorted(f.stem for f in SHIPPED.glob('*.jinja')))
def test_pairs_are_a_beginning_of_what_the_template_writes(name, words):
    fits = set()
    for thinking, target in SETTINGS:
        try: tokenizer = speaking(words, name, thinking); prompt, written = turn_ids(tokenizer, ASKED, target)
        except CgdError as e: assert str(e).startswith('the chat template ') and '\n' not in str(e); continue
        fits.add((thinking, target))
        assert prompt == tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False, **DATED)
        texts = [*conversations(tokenizer, target)]
        same = [tokenizer.encode(text, add_special_tokens=False)[:len(prompt + written)] == prompt + written for text in texts]
        ends = texts[0].endswith(tokenizer.decode((prompt + written)[:-1])) and tokenizer.convert_ids_to_tokens(written[-1]) in texts[1]
        assert any(same) or ends, (thinking, target, tokenizer.decode(prompt + written))   # of glm4moe, the token that begins the next turn
    assert fits >= {('auto', PLAIN)} or fits >= {('off', PLAIN), ('auto', THOUGHT)} or re.match('deepseek|idefics|llava|smolvlm', name), fits


@pytest.mark.parametrize('name', sorted(f.stem for f in SHIPPED.glob('*.jinja')))
def test_a_text_is_scored_where_it_is_learnt(name, words):
    for thinking, target in SETTINGS:
        try: tokenizer = speaking(words, name, thinking); prompt, written = turn_ids(tokenizer, ASKED, target)
        except CgdError as e:
            if target == THOUGHT: continue   # where there is no place for thoughts, they are text
            with pytest.raises(CgdError, match=re.escape(str(e))): _score_ids(speaking(words, name, thinking), ScoreRequest('a', ASKED, target))
            continue
        before, own = _score_ids(tokenizer, ScoreRequest('a', ASKED, target))
        assert before + own == (prompt + written)[:len(before + own)] and before[:len(prompt)] == prompt
        assert target == THOUGHT or tokenizer.decode(own) == PLAIN   # its own tokens alone


def test_of_most_families_it_is_scored_right_after_the_prompt(words):
    "Blanks, markers and thoughts in a text stay as they are"
    smollm2 = load_tokenizer('smollm2')
    for tokenizer in (smollm2, speaking(words, 'llama3_2')):
        for text in ('', ' 4', 'It is 4.', ' A\n', '4<|im_end|>', '<think>a</think>b'):
            bare = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
            assert _score_ids(tokenizer, ScoreRequest('a', ASKED, text)) == (chat_ids(tokenizer, ASKED), bare)
    assert _score_ids(smollm2, ScoreRequest('a', [1, 2], [3])) == ([1, 2], [3])


@pytest.mark.parametrize('text, parted', [
    ('Two.\n</think>\n\nIt is 4.', ('Two.', 'It is 4.')),   # the prompt opened it
    ('Write this:\n<think>\n</think>\nThat is all.', ('', 'Write this:\n<think>\n</think>\nThat is all.')),
    ('Close it by </think>\nas here.', ('', 'Close it by </think>\nas here.')),
    ('<|channel>thought\nTwo.\n<channel|>It is 4.', ('Two.', 'It is 4.')),
    ('<|channel|>analysis<|message|>Two.<|end|><|start|>assistant<|channel|>final<|message|>It is 4.', ('Two.', 'It is 4.'))])
def test_thoughts_are_known_by_any_familys_marks(text, parted):
    from cgd.answers import drop_thoughts
    assert _split_thoughts(text) == parted
    if parted[0]: assert drop_thoughts(text).strip() == parted[1]


PLACES = {  # template, setting, target -> what the student writes after its prompt
    ('qwen3', 'auto', PLAIN): '<think>\n\n</think>\n\nIt is 4.<|im_end|>', ('qwen3', 'off', PLAIN): 'It is 4.<|im_end|>',
    ('qwen3_5_think', 'off', PLAIN): 'It is 4.<|im_end|>', ('qwen3_5_think', 'on', THOUGHT): 'Two and two.\n</think>\n\nIt is 4.<|im_end|>',
    ('qwen3_8', 'on', THOUGHT): 'Two and two.\n</think>\n\nIt is 4.<|im_end|>', ('nemotron_3_nano', 'off', PLAIN): 'It is 4.<|im_end|>',
    ('gptoss', 'auto', PLAIN): '<|channel|>final<|message|>It is 4.<|return|>', ('muse_glimmer', 'auto', PLAIN): ' to=user<|message|>It is 4.<|eot|>',
    ('gptoss', 'on', THOUGHT): '<|channel|>analysis<|message|>Two and two.<|end|><|start|>assistant<|channel|>final<|message|>It is 4.<|return|>',
    ('glm4moe', 'auto', PLAIN): '\n<think></think>\nIt is 4.<|user|>', ('glm4moe', 'off', PLAIN): '\nIt is 4.<|user|>',
    ('llama3', 'auto', THOUGHT): THOUGHT + '<|eot_id|>', ('gemma4_v5', 'on', THOUGHT): '<|channel>thought\nTwo and two.\n<channel|>It is 4.<turn|>'}
RULES = {  # ... -> the line that refuses
    ('qwen3_5_think', 'auto', PLAIN): r"after '<\|im_end\|>.*<think>\\n' and writes one without thoughts after .*</think>\\n\\n', .* set thinking=off",
    ('qwen3', 'off', THOUGHT): 'set thinking=on', ('nemotron_3_ultra', 'auto', PLAIN): 'set thinking=off', ('deepseekv3', 'off', PLAIN): 'another chat_template.jinja',
    ('deepseek_r1_distill', 'on', THOUGHT): 'leaves the thoughts of an answer out', ('gemma4', 'on', THOUGHT): 'leaves the thoughts of an answer out'}


@pytest.mark.parametrize('name, thinking, target', [*PLACES, *RULES])
def test_where_an_answer_stands(name, thinking, target, words):
    tokenizer = speaking(words, name, thinking)
    if rule := RULES.get((name, thinking, target)):
        with pytest.raises(CgdError, match=rule): turn_ids(tokenizer, ASKED, target)
    else: assert tokenizer.decode(turn_ids(tokenizer, ASKED, target)[1]) == PLACES[name, thinking, target]


def test_a_student_carries_its_setting_along(words, tmp_path):
    folder = as_model(words, 'qwen3_5_think', tmp_path/'a')
    load_tokenizer(folder, 'off').save_pretrained(tmp_path/'b')
    shutil.copy(f'{folder}/config.json', tmp_path/'b')
    plain, own, off = load_tokenizer(folder), load_tokenizer(tmp_path/'b'), load_tokenizer(folder, 'off')
    assert chat_ids(own, ASKED) == chat_ids(off, ASKED) != chat_ids(plain, ASKED) == chat_ids(load_tokenizer(tmp_path/'b', 'on'), ASKED)
    assert own.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True, enable_thinking=True).endswith('<think>\n')   # a default, no more
    assert load_tokenizer(tmp_path/'b', 'off').chat_template == own.chat_template


def test_thinking_is_in_the_key_where_it_changes_the_chat(words, tmp_path):
    thinks, other = as_model(words, 'qwen3', tmp_path/'a'), as_model(words, 'qwen2_5', tmp_path/'b')
    def told(folder, thinking): return open_engine(f'hf:{folder}', thinking=thinking, dtype='float32').identity
    assert told(other, 'auto') == told(other, 'on') == told(other, 'off')
    assert told(thinks, 'off') == told(thinks, 'auto') | dict(thinking='off')
    assert told(thinks, 'on') == told(thinks, 'auto') | dict(thoughts=True)     # it thinks by default; what marks its thoughts is kept


# Other families, rebuilt small: the kinds that TRL's files do not show

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHATML
DROPS_SYSTEM = CHATML.replace('messages %}<', "messages if m.role != 'system' %}<")
ALTERNATES = ("{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('user and assistant must alternate') }}{% endif %}{% endfor %}" + CHATML)
DATE = "{{ '<|im_start|>system\nToday: ' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}" + CHATML
OPENS = CHATML.replace('assistant\n{% endif', 'assistant\n<think>\n{% endif')   # and nothing closes it again
NAMED = CHATML.replace('<|im_start|>assistant\n{% e', "<|im_start|>assistant\n{% if not thinking %}<think></think>{% endif %}{% e").replace(
    '{{ m.content }}', "{% if m.role == 'assistant' %}<think>{{ m.thinking or '' }}</think>{% endif %}{{ m.content }}")   # its switch and field are called thinking
LATER = "{% for m in messages %}{{ '<|user|>' if m.role == 'user' else '<|assistant|>' }}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
SYSTEM = [dict(role='system', content='Be brief.'), *ASKED]


def prompt_of(words, template, messages): return words.decode(chat_ids(speaking(words, template), messages))


@pytest.mark.parametrize('template', [NO_SYSTEM, DROPS_SYSTEM, ALTERNATES, 'gemma'])
def test_a_system_turn_that_is_not_taken_stands_in_the_user_turn(template, words, tmp_path):
    assert 'user\nBe brief.\n\nWhat is 2 + 2?<' in prompt_of(words, template, SYSTEM) and not chat_facts(as_model(words, template, tmp_path))['system']
    more = [*SYSTEM, dict(role='assistant', content='4'), dict(role='user', content='Sure?')]
    assert prompt_of(words, template, more).count('Be brief.') == 1


def test_system_turns_that_are_taken_stay_and_empty_ones_go(words):
    assert 'system\nBe brief.<' in prompt_of(words, CHATML, SYSTEM) and chat_facts('smollm2')['system']
    assert prompt_of(words, CHATML, [dict(role='system', content=' '), *ASKED]) == prompt_of(words, CHATML, ASKED)


def test_turns_in_a_row_become_one_where_they_must_alternate(words):
    tokenizer = speaking(words, ALTERNATES)
    assert _accepted(tokenizer, [*SYSTEM, *ASKED])[0] == [dict(role='user', content='Be brief.\n\nWhat is 2 + 2?\n\nWhat is 2 + 2?')]
    with pytest.raises(CgdError, match='refuses turns of assistant: user and assistant must alternate'): _accepted(tokenizer, [dict(role='assistant', content='x')])


def test_folding_is_said_once(tiny_model, tmp_path, capsys):
    folder = shutil.copytree(tiny_model, tmp_path/'gemma-like')
    Path(folder, 'chat_template.jinja').write_text(NO_SYSTEM)
    with open_engine(f'hf:{folder}', dtype='float32') as engine, Store(tmp_path/'s.sqlite') as store:
        for i in range(2): complete(engine, [Request(f'p{i}', [SYSTEM[0], dict(role='user', content=f'{i}?')], max_new_tokens=1)], store)
    assert capsys.readouterr().err.count('takes no system turn') == 1


@pytest.mark.parametrize('name', ['llama3_2', 'gptoss', 'muse_glimmer', 'own'])
def test_a_date_in_the_template_is_the_same_on_any_day(name, words, tmp_path, monkeypatch):
    from transformers.utils import chat_template_utils
    folder = as_model(words, DATE if name == 'own' else name, tmp_path)
    prompts, keys = set(), set()
    for day in (3, 4):
        class Frozen(datetime.datetime):
            @classmethod
            def now(cls): return cls(2031, 5, day)
        monkeypatch.setattr(chat_template_utils, 'datetime', Frozen)
        tokenizer = words
        assert f'{day:02}' in tokenizer.apply_chat_template(ASKED, tokenize=False)   # the clock is the template's
        prompts.add(str([chat_ids(tokenizer, ASKED), turn_ids(tokenizer, ASKED, PLAIN)]))
        keys.add(str(open_engine(f'hf:{folder}', dtype='float32').identity))
    assert len(prompts) == len(keys) == 1 and "'date': '2026-01-01'" in keys.pop()


def test_an_open_thought_that_nothing_closes_is_refused(words):
    tokenizer = speaking(words, OPENS)
    with pytest.raises(CgdError, match='another chat_template.jinja'): turn_ids(tokenizer, ASKED, PLAIN)
    assert tokenizer.decode(turn_ids(tokenizer, ASKED, THOUGHT)[1]) == 'Two and two.\n</think>\n\nIt is 4.<|im_end|>'


def test_a_turn_that_the_next_one_ends(words):
    assert words.decode(turn_ids(speaking(words, LATER), ASKED, PLAIN)[1]) == 'It is 4.<|user|>'


def test_a_switch_by_another_name(words):
    assert words.decode(turn_ids(speaking(words, NAMED), ASKED, PLAIN)[1]) == 'It is 4.<|im_end|>'
    assert words.decode(turn_ids(speaking(words, NAMED, 'on'), ASKED, THOUGHT)[1]) == '<think>Two and two.</think>It is 4.<|im_end|>'


def test_tags_inside_an_answer_are_text(words):
    tokenizer, odd = speaking(words, 'qwen3'), 'Write </think> after <think>.'
    assert tokenizer.decode(turn_ids(tokenizer, ASKED, odd)[1]) == f'<think>\n\n</think>\n\n{odd}<|im_end|>'


# Turns that end in another token than the tokenizer and the generation config name

@pytest.fixture(scope='module')
def otherwise(tiny_student, tmp_path_factory):
    "The tiny student, in whose folder <|endoftext|> is named as the end"
    folder = Path(shutil.copytree(tiny_student, tmp_path_factory.mktemp('base')/'model'))
    tokenizer = load_tokenizer(folder)
    tokenizer.eos_token = '<|endoftext|>'
    tokenizer.save_pretrained(folder)
    for name in ('config.json', 'generation_config.json'):
        (folder/name).write_text(json.dumps(json.loads((folder/name).read_text()) | dict(eos_token_id=tokenizer.eos_token_id)))
    return str(folder)


def test_the_end_of_turn_is_known_and_in_the_key(otherwise, tiny_student):
    end = load_tokenizer(otherwise).convert_tokens_to_ids('<|im_end|>')
    assert end_of_turn(load_tokenizer(otherwise)) == end == chat_facts(otherwise)['end']
    assert open_engine(f'hf:{otherwise}').identity['end'] == end and 'end' not in open_engine(f'hf:{tiny_student}').identity


def force(folder, to, token):
    "A copy of a model that writes one token, whatever it is asked"
    import torch
    from transformers import LlamaForCausalLM
    shutil.copytree(folder, to)
    model = LlamaForCausalLM.from_pretrained(folder, tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight.zero_(); model.model.norm.weight.zero_(); model.model.norm.weight[0] = 1.
    model.config.tie_word_embeddings = False
    for layer in model.model.layers: layer.self_attn.o_proj.weight.data.zero_(); layer.mlp.down_proj.weight.data.zero_()
    model.model.embed_tokens.weight.data[:, 0] = 1.
    model.lm_head.weight.data[token, 0] = 1.
    model.save_pretrained(to)
    return str(to)


@pytest.mark.parametrize('kind', ['hf', 'vllm'])
def test_generation_stops_there(kind, otherwise, tmp_path, long):
    if kind == 'vllm': pytest.importorskip('vllm')
    if kind == 'vllm' and not long: pytest.skip('starts vLLM: --long')
    folder = force(otherwise, tmp_path/'ends', end_of_turn(load_tokenizer(otherwise)))
    with open_engine(f'{kind}:{folder}', dtype='float32', max_model_len=256) as engine, Store(tmp_path/'s.sqlite') as store:
        done = complete(engine, [Request('p', ASKED, max_new_tokens=20)], store)[0]
    assert (done.text, done.finish_reason, done.completion_tokens) == ('', 'stop', 1)


@pytest.mark.parametrize('method', ['full', 'lora'])
def test_the_saved_model_names_it(method, otherwise, tmp_path):
    from cgd.recipe import TrainConfig
    from cgd.merge import merge_student
    from cgd.train import fit
    from cgd.views import Pairs, make_pair
    pairs = Pairs('sft', [make_pair('sft', dict(problem=f'{i} + 1?'), str(i + 1), str(i)) for i in range(4)])
    fit(pairs, TrainConfig(backend='trl', tuning=method, epochs=1, dtype='float32'), otherwise, tmp_path/'out')
    saved = json.loads(Path(merge_student(otherwise, tmp_path/'out', tmp_path/'merged'), 'generation_config.json').read_text())['eos_token_id']
    assert saved == [end_of_turn(load_tokenizer(otherwise)), load_tokenizer(otherwise).eos_token_id]


def test_an_empty_system_text_sends_no_turn():
    from cgd.teacher import PRESETS, critique_messages, refine_messages
    bare, row = PRESETS['paper'].model_copy(update=dict(critique_system='', refine_system=' ')), dict(prompt='2 + 2?', draft='5', critique='No.')
    assert [[t['role'] for t in make(bare, row)] for make in (critique_messages, refine_messages)] == [['user']]*2


def test_an_endpoint_is_told_of_thinking_when_it_is_set(tmp_path):
    "A server sees what its own template calls it, and nothing unless it is set"
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread
    seen = []

    class Server(BaseHTTPRequestHandler):
        def log_message(self, *args): pass
        def do_POST(self):
            seen.append(json.loads(self.rfile.read(int(self.headers['content-length']))))
            body = json.dumps(dict(id='x', object='chat.completion', created=0, model='m', usage=dict(prompt_tokens=1, completion_tokens=1, total_tokens=2),
                                   choices=[dict(index=0, finish_reason='stop', message=dict(role='assistant', content='4'))])).encode()
            self.send_response(200); self.send_header('content-type', 'application/json'); self.send_header('content-length', str(len(body))); self.end_headers()
            self.wfile.write(body)
    server = ThreadingHTTPServer(('127.0.0.1', 0), Server)
    Thread(target=server.serve_forever, daemon=True).start()
    keys = []
    for thinking in ('auto', 'off'):
        with open_engine(f'openai:m@http://127.0.0.1:{server.server_port}/v1', thinking=thinking) as engine, Store(tmp_path/f'{thinking}.sqlite') as store:
            keys.append(complete(engine, [Request('p', ASKED)], store)[0].key)
    server.shutdown()
    assert [body.get('chat_template_kwargs') for body in seen] == [None, dict(enable_thinking=False, thinking=False)] and keys[0] != keys[1]


def test_a_run_says_so_before_it_drafts(words, tmp_path):
    from cgd.plan import CHECKS, Plan, RunConfig
    folder = as_model(words, 'nemotron_3_nano', tmp_path)
    def run(thinking, methods=('cgd',)): 
        check = next(c for c in CHECKS if c.__name__ == '_thinking')
        return check(Plan(RunConfig.make(dict(name='x', student=folder, methods=methods, engine=dict(thinking=thinking)))))
    with pytest.raises(CgdError, match=r'engine.thinking: .* asks for an answer after .* set thinking=off \(or on, if all targets have thoughts\)'): run('auto')
    assert run('off') is run('on') is run('auto', ('grpo',)) is None
