"Thoughts that are marked by special tokens, or opened by the template, are told from the answer; without the setting every key is as it was"
import json
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from cgd.analysis import judge_steps, opens_like_critique
from cgd.answers import drop_thoughts
from cgd.given import given_drafts, read_given, review_rest
from cgd.methods import ViewConfig
from cgd.models import mark_thoughts
from cgd.oracle import OracleTeacher
from cgd.relatives import answers_alone, split_steps
from cgd.rewards import pay_closeness, pay_closeness_stored, read_mark
from cgd.rivals import RLConfig
from cgd.store import Completion, Request, Store, request_key
from cgd.generate import complete
from cgd.engines import open_engine
from cgd.teacher import TeacherConfig, open_teacher
from cgd.vote import count_votes

ASKED = [dict(role='user', content='What is 2 + 2?')]


@pytest.fixture(scope='module')
def thinker(tiny_model, tmp_path_factory) -> str:
    "A model that writes marks of thoughts: its last layer knows them and some letters, and nothing else"
    import torch
    from transformers import LlamaForCausalLM
    folder = str(tmp_path_factory.mktemp('thinker'))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(['[THINK]', '[/THINK]', '<|noise|>'], special_tokens=True)
    model = LlamaForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=False)
    model.resize_token_embeddings(len(tokenizer))
    torch.manual_seed(1)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        for mark, letter in (('[THINK]', 'a'), ('[/THINK]', 'b'), ('<|noise|>', 'c')):   # one of a pair is likely, whatever came before
            direction = torch.randn(64) * 5
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(mark)], model.lm_head.weight[tokenizer.convert_tokens_to_ids(letter)] = direction, -direction
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder); tokenizer.save_pretrained(folder)
    return folder


def write(spec, store, n=12, **options) -> list[str]:
    with open_engine(spec, dtype='float32', in_process=True, **options) as engine:
        return [c.text for c in complete(engine, [Request('r', ASKED, i, 2., seed=i, max_new_tokens=12) for i in range(n)], store)]


def test_marks_are_kept_when_asked_for(thinker, tmp_path):
    with Store(tmp_path/'s.sqlite') as store:
        plain, kept = write(f'hf:{thinker}', store), write(f'hf:{thinker}', store, keep_thoughts=True)
        assert len(store) == 24                                    # keys of their own
    assert not any('THINK' in t for t in plain) and any('[THINK]' in t for t in kept)
    assert [t.replace('[THINK]', '').replace('[/THINK]', '') for t in kept] == plain   # and nothing else came in
    assert [drop_thoughts(t) for t in plain] == plain and [drop_thoughts(t) for t in kept] != plain


def test_a_thought_that_the_template_opens(thinker, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(thinker)
    assert mark_thoughts(tokenizer, tokenizer.encode('<|im_start|>assistant\n<think>\n'), 'so 4<|im_end|>') == '<think>so 4'
    assert mark_thoughts(tokenizer, tokenizer.encode('<think></think>\n'), 'so 4') == 'so 4'
    assert drop_thoughts('<think>so 4') == '' and drop_thoughts('<think>so</think>4') == '4'


def test_keys_are_as_they_were(thinker):
    with open_engine(f'hf:{thinker}') as plain, open_engine(f'hf:{thinker}', keep_thoughts=True) as kept, open_engine('openai:m@http://127.0.0.1:1/v1') as endpoint:
        assert 'thoughts' not in plain.identity | endpoint.identity and kept.identity == plain.identity | dict(thoughts=True)
        assert request_key(plain.identity, Request('r', ASKED)) != request_key(kept.identity, Request('r', ASKED))


def test_three_families():
    assert drop_thoughts('<|im_start|>think\n4?<|im_start|>answer\n5') == '\n5'
    assert drop_thoughts('<|channel|>analysis<|message|>4?<|start|>assistant<|channel|>final<|message|>5') == '5'
    assert drop_thoughts('[THINK]4?[/THINK]5') == '5' and drop_thoughts('[THINK]4?') == ''


def test_by_vllm_too(thinker, tmp_path, long):
    pytest.importorskip('vllm')
    if not long: pytest.skip('starts vLLM: --long')
    with Store(tmp_path/'s.sqlite') as store, open_engine(f'vllm:{thinker}', dtype='float32', keep_thoughts=True) as engine:
        kept = [c.text for c in complete(engine, [Request('r', ASKED, i, 2., seed=i, max_new_tokens=12) for i in range(12)], store)]
    assert any('[THINK]' in t for t in kept) and not any('<|noise|>' in t for t in kept)


def test_thinking_on_keeps_the_marks(thinker, tmp_path):
    "Where the template knows the difference: a thought that it opens is told from an answer"
    import shutil
    folder = shutil.copytree(thinker, tmp_path/'thinks')
    opens = "{% if enable_thinking %}<think>\n{% else %}<think></think>{% endif %}"
    (folder/'chat_template.jinja').write_text("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
                                              "{% if add_generation_prompt %}<|im_start|>assistant\n" + opens + "{% endif %}")
    with Store(tmp_path/'s.sqlite') as store:
        on, off = write(f'hf:{folder}', store, thinking='on'), write(f'hf:{folder}', store, thinking='off')
        assert len(store) == 24
    assert all(t.startswith('<think>') for t in on) and any('[THINK]' in t for t in on) and not any('think' in t or 'THINK' in t for t in off)
    assert all(drop_thoughts(t) == '' for t in on if '[/THINK]' not in t)   # it never came to an end of its thoughts


def test_what_is_thought_is_graded_nowhere(tmp_path):
    "Drafts, critiques and refinements go by what comes after the thoughts, as tests do; an end of thoughts that never came leaves nothing"
    said = dict(draft='<think>5 * 9 = 45', critique='<think>Conclusion: right</think>\nThe sum is off.\nConclusion: wrong', refinement='<think>The answer is 45.</think>\n\nI do not know.')
    file = tmp_path/'given.jsonl'
    file.write_text(json.dumps(dict(prompt='What is 5 * 9?', reference='45', student='s', teacher='oracle', preset='withheld') | said) + '\n')
    rows = read_given(str(file)).rows
    drafts = given_drafts(rows)[rows[0]['problem_id']]
    row, = review_rest([(drafts[0], rows[0])], open_teacher('oracle', TeacherConfig()))
    assert (row['draft_grade'], row['verdict'], row['refinement_grade'], row['critique_grade']) == ('no_answer', 'wrong', 'no_answer', 'no_answer')


def test_what_is_thought_is_read_nowhere():
    "Votes, answers alone, steps, rewards for nearness, marks, and what an analysis reads go by what comes after the thoughts"
    wrong, said = r'<think>Your solution is wrong: 2 + 2 = 7, so \boxed{7}? No.</think>', '2 + 3 = 5\n' + r'\boxed{5}'
    text, row = wrong + said, dict(problem_id='p', prompt='What is 2 + 3?', reference='5', solution='2 + 3 = 5')
    assert count_votes([row | dict(direct=wrong + 'The answer is 5.')]*2) == {'p': ('5', 1.)}
    assert answers_alone([row | dict(direct='<think>So 7')], ViewConfig())[0]['direct'] == ''
    assert split_steps(text) == split_steps(said)
    assert (judge_steps(text, '5'), opens_like_critique(text)) == ('sound', False)
    assert pay_closeness_stored([text], [row | dict(refinement='<think>5?</think>' + said)], RLConfig()) == [1]
    edits = SimpleNamespace(teacher=OracleTeacher(), store=None)
    assert pay_closeness([text], [row], RLConfig(), edits) == pay_closeness([said], [row], RLConfig(), edits)
    assert read_mark(Completion('<think>{"truthful": true, "mark": 9}</think>I cannot tell.', 'stop', 1, 1)) is None
