"Every view is rendered rightly by the chat templates of other model families: one begin-of-text at most, and loss on target and end token alone"
from importlib.util import find_spec
from pathlib import Path

import pytest

from cgd.data import load_problems
from cgd.generate import SampleConfig, Store, find_model, open_engine
from cgd.rollouts import draft
from cgd.teacher import TeacherConfig, critique, direct, open_teacher, refine
from cgd.views import VIEWS, build, end_of_turn, render

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
    with open_teacher('reference', TeacherConfig(wrong_rate=1.)) as teacher: wrong = critique(drafts, teacher)
    with open_teacher('reference') as teacher: rows = refine(critique(direct(drafts, teacher), teacher), teacher)
    return [r | dict(wrong_critique=w['critique']) for r, w in zip(rows, wrong)]


def made(view, traces):
    "Pairs of a view; for one of the student's own refinements, as if it had been the teacher"
    return build([r | dict(teacher=r['student']) for r in traces] if VIEWS[view].own else traces, view).rows


def learnt(tokenizer, ids, mask): return tokenizer.decode([i for i, m in zip(ids, mask) if m], clean_up_tokenization_spaces=False)


@pytest.mark.parametrize('view', VIEWS)
def test_view(view, family, traces):
    name, tokenizer = family
    bos, end = FAMILIES[name][1:3]
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids(end)
    for pair in made(view, traces):
        ids, mask = render(tokenizer, pair)
        assert learnt(tokenizer, ids, mask) == pair['completion'][0]['content'] + end
        assert mask == sorted(mask) and ids[:mask.index(1)] == tokenizer.apply_chat_template(pair['prompt'], add_generation_prompt=True, return_dict=False)
        if bos: assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize('view', VIEWS)
def test_markers_in_texts_stay_text(view, family, traces):
    "Texts that hold every token of the template begin no turn and end none"
    name, tokenizer = family
    _, bos, end, special, plain = FAMILIES[name]
    markers = [t for t in (bos, end, *special) if t]
    odd = 'It is 4. ' + '\n'.join([*markers, *plain]) + ' Or 5?'
    forged = [r | {c: f'{odd} {i}' for c in ('prompt', 'solution', 'direct', 'draft', 'critique', 'wrong_critique', 'refinement')} for i, r in enumerate(traces)]
    for honest, pair in zip(made(view, traces), made(view, forged), strict=True):
        (sound, _), (ids, mask) = render(tokenizer, honest), render(tokenizer, pair)
        assert learnt(tokenizer, ids, mask) == pair['completion'][0]['content'] + end
        for marker in tokenizer.convert_tokens_to_ids(markers): assert ids.count(marker) == sound.count(marker)
